//! How well a wireless interface hears its access point, from the text the kernel shows in `/proc/net/wireless`.
//!
//! ```text
//! Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
//!  face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
//! wlp2s0: 0000   57.  -53.  -256        0      0      0      0     12        0
//! ```

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Quality of the link, in the driver's own unit; most count to 70.
    pub quality: i32,
    /// Level at the receiver in dBm, from about -30 (near) to -90 (lost).
    pub level_dbm: i32,
}

/// The signal of `interface`; none when it is not wireless or has no access point.
#[must_use]
pub fn signal(table: &str, interface: &str) -> Option<Signal> {
    let figures = table.lines().find_map(|line| {
        let (name, figures) = line.split_once(':')?;
        (name.trim() == interface).then_some(figures)
    })?;
    let mut figures = figures.split_whitespace().skip(1).map(whole);
    let (quality, level_dbm) = (figures.next()??, figures.next()??);
    // An interface without an access point shows zeros or the least a byte can say.
    (-150..0)
        .contains(&level_dbm)
        .then_some(Signal { quality, level_dbm })
}

/// The kernel marks a figure that was updated with a dot.
fn whole(figure: &str) -> Option<i32> {
    figure.trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
wlp2s0: 0000   57.  -53.  -256        0      0      0      0     12        0
 wlan1: 0000    0     0     0        0      0      0      0      0        0
";

    #[test]
    fn the_figures_of_one_interface_are_found() {
        let heard = Signal {
            quality: 57,
            level_dbm: -53,
        };
        assert_eq!(signal(TABLE, "wlp2s0"), Some(heard));
        assert_eq!(signal(TABLE, "wlan1"), None, "no access point");
        assert_eq!(signal(TABLE, "eth0"), None);
        assert_eq!(signal(TABLE, "face | tus"), None);
        assert_eq!(signal("wlp2s0: 0000 x", "wlp2s0"), None);
        assert_eq!(signal("", ""), None);
    }
}
