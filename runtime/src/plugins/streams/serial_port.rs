//! A serial port: opened without waiting for a carrier, for us alone, raw, and read and written by tokio.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, OFlags, access, flock, major, minor};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
    ioctl_tiocexcl, tcflush, tcgetattr, tcsetattr,
};
use tokio::net::unix::pipe;

use super::berth::{Berth, Moored, Mooring};
use super::line::Unsent;
use crate::bounded_file;
use crate::plugins::stream_target::{DataBits, FlowControl, Parity, SerialTarget, StopBits};

/// Ends of pseudo-terminals that programs open (the kernel's list of devices, `Unix98 PTY slaves`).
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;
/// `/dev/tty`, and `/dev/ptmx` under each of its names: terminals by their class, and no line behind them.
const NO_LINES: [(u32, u32); 2] = [(5, 0), (5, 2)];
/// A link for each character device, to what its driver has made of it.
const CHARACTER_DEVICES: &str = "/sys/dev/char";
const GROUPS: &str = "/etc/group";
const GROUPS_BYTES_MAX: u64 = 1024 * 1024;
/// Divisors of a clock seldom meet a speed exactly; a UART reads a byte right up to about this.
const SPEED_DEVIATION: u32 = 40;

/// What decides how a byte looks on the line.
const LINE: ControlModes = ControlModes::CSIZE
    .union(ControlModes::PARENB)
    .union(ControlModes::PARODD)
    .union(ControlModes::CMSPAR)
    .union(ControlModes::CSTOPB)
    .union(ControlModes::CRTSCTS);

/// An open port. While it is open no other program has it.
#[derive(Debug)]
pub(crate) struct SerialPort {
    device: PathBuf,
    flow_control: FlowControl,
    /// In the clothes of a pipe: the same system calls read and write, and no `unsafe` is needed to wait for it.
    reader: pipe::Receiver,
    writer: pipe::Sender,
    /// After both ends: the thread at the other end of this is the last to have the port, and closes it.
    mooring: Mooring,
}

impl SerialPort {
    /// # Errors
    /// With the words for whoever has to see to it.
    pub(super) async fn open(
        target: &SerialTarget,
        berth: &Berth,
        within: Duration,
    ) -> Result<Self, String> {
        let moored = berth.open(target.clone(), within, open).await?;
        let dressed = Self::dressed(target, moored);
        dressed.map_err(|error| format!("{}: {error}", target.device.display()))
    }

    fn dressed(target: &SerialTarget, moored: Moored) -> io::Result<Self> {
        // In this order, so that the thread is the last to have the port where this fails, too.
        let Moored { lines, port } = moored;
        Ok(Self {
            device: target.device.clone(),
            flow_control: target.flow_control,
            writer: pipe::Sender::from_file_unchecked(port.try_clone()?)?,
            reader: pipe::Receiver::from_file_unchecked(port)?,
            mooring: lines,
        })
    }

    pub(super) fn reader(&mut self) -> &mut pipe::Receiver {
        &mut self.reader
    }

    pub(super) fn writer(&mut self) -> &mut pipe::Sender {
        &mut self.writer
    }

    pub(super) fn hung_up(&self) -> String {
        format!(
            "{} hung up: it was unplugged, or its driver has given it up",
            self.device.display()
        )
    }

    pub(super) fn failed(&self, error: &io::Error) -> String {
        match Errno::from_io_error(error) {
            // A driver that is about to hang up says so by any of these.
            Some(Errno::IO | Errno::NODEV | Errno::NXIO) => {
                format!("{} ({error})", self.hung_up())
            }
            Some(_) | None => format!("{}: {error}", self.device.display()),
        }
    }

    pub(super) fn stalled(&self) -> String {
        let why = match self.flow_control {
            FlowControl::None => "its driver takes no bytes",
            FlowControl::RtsCts => {
                "the device holds up our bytes by CTS; is the wire there? flow_control=none does without"
            }
            FlowControl::XonXoff => "the device has said XOFF and no XON since",
        };
        format!("{}: {why}", self.device.display())
    }

    /// At once for whoever calls: the port's thread sees to it.
    pub(super) fn close(self, unsent: Unsent) {
        let Self {
            reader,
            writer,
            mooring,
            ..
        } = self;
        drop((reader, writer));
        mooring.cast_off(unsent);
    }
}

impl AsFd for SerialPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

fn open(target: &SerialTarget) -> Result<File, String> {
    let device = &target.device;
    let shown = device.display();
    if let Some(trouble) = device_trouble(device) {
        return Err(trouble);
    }
    // Not the terminal that ends us, and no waiting for a carrier.
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits();
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags.cast_signed())
        .open(device);
    let port = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => in_use(device),
        Some(Errno::NXIO | Errno::NODEV | Errno::IO) => no_hardware(device, &error),
        Some(_) | None => format!("{shown}: {error}"),
    })?;
    let before = tcgetattr(&port).map_err(|errno| match errno {
        Errno::NOTTY => format!("{shown} is no serial port"),
        other => no_hardware(device, &other.into()),
    })?;
    // Before anything changes: the port may be somebody else's.
    claim(&port, device)?;
    let wanted = raw(before, target);
    let failed = |errno: Errno| format!("{shown} cannot be set up: {}", io::Error::from(errno));
    tcsetattr(&port, OptionalActions::Now, &wanted).map_err(failed)?;
    let got = tcgetattr(&port).map_err(failed)?;
    if !is_pseudo_terminal(&port) && !is_as_wanted(&got, &wanted) {
        return Err(format!(
            "{shown}: its driver does not do {}{}",
            target.line(),
            match target.flow_control {
                FlowControl::RtsCts => " with rts-cts",
                FlowControl::None | FlowControl::XonXoff => "",
            }
        ));
    }
    // What came before anybody was listening, by settings of somebody else.
    tcflush(&port, QueueSelector::IOFlush).map_err(failed)?;
    Ok(port)
}

/// So that it is ours alone: by a lock for those who ask for one, and by the port's own mark for those who do not.
fn claim(port: &File, device: &Path) -> Result<(), String> {
    match flock(port, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(in_use(device)),
        Err(other) => return Err(format!("{}: {other}", device.display())),
    }
    // The mark of a pseudo-terminal outlives us if we are killed: it lasts as long as its other end.
    if is_pseudo_terminal(port) {
        return Ok(());
    }
    match ioctl_tiocexcl(port) {
        // Some drivers have none; the lock has to do.
        Ok(()) | Err(Errno::NOTTY | Errno::INVAL) => Ok(()),
        Err(other) => Err(format!("{}: {other}", device.display())),
    }
}

fn is_pseudo_terminal(port: &File) -> bool {
    let device = port.metadata().map(|metadata| metadata.rdev());
    device.is_ok_and(|device| PSEUDO_TERMINALS.contains(&major(device)))
}

/// Bytes as they are, both ways, with no regard for wires that tell of a carrier.
fn raw(before: Termios, target: &SerialTarget) -> Termios {
    let mut raw = before;
    raw.make_raw();
    raw.input_modes -= InputModes::IXOFF | InputModes::IXANY | InputModes::IGNPAR;
    // A line that is cut or not connected may look like one long break; it is no byte.
    raw.input_modes |= InputModes::IGNBRK;
    // A byte with a wrong parity is read as 0, so that it is never taken for another.
    raw.input_modes
        .set(InputModes::INPCK, target.parity != Parity::None);
    raw.control_modes -= LINE;
    raw.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    raw.control_modes |= match target.data_bits {
        DataBits::Five => ControlModes::CS5,
        DataBits::Six => ControlModes::CS6,
        DataBits::Seven => ControlModes::CS7,
        DataBits::Eight => ControlModes::CS8,
    };
    raw.control_modes |= match target.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    };
    raw.control_modes
        .set(ControlModes::CSTOPB, target.stop_bits == StopBits::Two);
    match target.flow_control {
        FlowControl::None => {}
        FlowControl::RtsCts => raw.control_modes |= ControlModes::CRTSCTS,
        FlowControl::XonXoff => raw.input_modes |= InputModes::IXON | InputModes::IXOFF,
    }
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    match raw.set_speed(target.baud) {
        // Linux takes any number; what the driver makes of it is read back.
        Ok(()) | Err(_) => raw,
    }
}

/// A driver that cannot do what it is told does something else and says nothing.
fn is_as_wanted(got: &Termios, wanted: &Termios) -> bool {
    let speed = wanted.output_speed();
    got.control_modes & LINE == wanted.control_modes & LINE
        && got.output_speed().abs_diff(speed) <= speed / SPEED_DEVIATION
}

fn in_use(device: &Path) -> String {
    let shown = device.display();
    format!("{shown} is in use: `fuser -v {shown}` names the program; a port serves one at a time")
}

fn no_hardware(device: &Path, error: &io::Error) -> String {
    format!(
        "{} is there, and no port behind it: {error}; `ls -l /dev/serial/by-id` shows converters that are plugged in",
        device.display()
    )
}

/// Why a device file could not be opened now, found out without opening it.
pub(crate) fn device_trouble(device: &Path) -> Option<String> {
    let shown = device.display();
    let metadata = match std::fs::metadata(device) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(format!(
                "{shown} is not there: is it plugged in, and is this its name? `ls -l /dev/serial/by-id` shows converters that are"
            ));
        }
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    if !metadata.file_type().is_char_device() {
        return Some(format!("{shown} is no serial port"));
    }
    if let Some(trouble) = kind_trouble(device, metadata.rdev()) {
        return Some(trouble);
    }
    match access(device, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => None,
        Err(Errno::ACCESS | Errno::PERM) => Some(not_permitted(device, &metadata)),
        Err(other) => Some(format!("{shown}: {}", io::Error::from(other))),
    }
}

/// Opening is no way to find out: it arms a watchdog, for one.
fn kind_trouble(device: &Path, number: u64) -> Option<String> {
    let shown = device.display();
    let number = (major(number), minor(number));
    if NO_LINES.contains(&number) {
        return Some(format!(
            "{shown} is no serial port: it stands for terminals, and has no line of its own"
        ));
    }
    // They come and go with their programs, and have no link.
    if PSEUDO_TERMINALS.contains(&number.0) {
        return None;
    }
    let devices = Path::new(CHARACTER_DEVICES);
    let link = devices.join(format!("{}:{}/subsystem", number.0, number.1));
    match std::fs::read_link(link) {
        Ok(class) if class.file_name() == Some("tty".as_ref()) => None,
        Err(_) if !devices.is_dir() => Some(format!(
            "{shown} is not opened without knowing what it is, and {CHARACTER_DEVICES} is not there to say so: is /sys mounted?"
        )),
        Ok(_) | Err(_) => Some(format!("{shown} is no serial port")),
    }
}

fn not_permitted(device: &Path, metadata: &Metadata) -> String {
    let shown = device.display();
    let group = group_name(metadata.gid());
    if metadata.mode() & 0o060 == 0o060 {
        format!(
            "{shown} may not be opened by this user: is the user in the group {group}? \
             `usermod -a -G {group} USER`, and start the gateway again"
        )
    } else {
        format!(
            "{shown} may not be opened by this user, nor by its group {group} (mode {:03o}): a udev rule, or \
             `chmod g+rw {shown}`, lets a group have it",
            metadata.mode() & 0o777
        )
    }
}

fn group_name(gid: u32) -> String {
    let groups = bounded_file::read_text(Path::new(GROUPS), GROUPS_BYTES_MAX).unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| gid.to_string())
}
