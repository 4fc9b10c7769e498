//! A serial port: opened without waiting for a carrier, for us alone, raw, and read and written by tokio.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, OFlags, access, flock, major};
use rustix::io::Errno;
use rustix::termios::{
    ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
    ioctl_tiocexcl, tcdrain, tcflush, tcgetattr, tcsetattr,
};
use tokio::net::unix::pipe;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::line::Unsent;
use crate::bounded_file;
use crate::plugins::stream_target::{DataBits, FlowControl, Parity, SerialTarget, StopBits};

/// Ends of pseudo-terminals that programs open (the kernel's list of devices, `Unix98 PTY slaves`).
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;
const GROUPS: &str = "/etc/group";
const GROUPS_BYTES_MAX: u64 = 1024 * 1024;
/// Divisors of a clock seldom meet a speed exactly; a UART reads a byte right up to about this.
const SPEED_DEVIATION: u32 = 40;

/// What a guest wrote before it closed has so long to leave.
const SENT_WITHIN: Duration = Duration::from_secs(5);

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
    /// Nothing that was written is on its way any more.
    all_sent: bool,
}

impl SerialPort {
    /// # Errors
    /// With the words for whoever has to see to it.
    pub(super) async fn open(target: &SerialTarget) -> Result<Self, String> {
        let wanted = target.clone();
        // A driver may take its time, for a converter that has just been plugged in, say.
        let opened = spawn_blocking(move || open(&wanted)).await;
        let port = opened.map_err(|panicked| panicked.to_string())??;
        let dressed = || {
            Ok(Self {
                device: target.device.clone(),
                flow_control: target.flow_control,
                writer: pipe::Sender::from_file_unchecked(port.try_clone()?)?,
                reader: pipe::Receiver::from_file_unchecked(port)?,
                all_sent: false,
            })
        };
        let dressed: io::Result<Self> = dressed();
        dressed.map_err(|error| format!("{}: {error}", target.device.display()))
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

    /// Apart from the stream's task: to close takes as long as the last bytes are on the line.
    pub(super) fn close(mut self, unsent: Unsent) -> JoinHandle<()> {
        tokio::spawn(async move {
            if unsent == Unsent::Sent
                && let Ok(line) = self.reader.as_fd().try_clone_to_owned()
            {
                let mut draining = spawn_blocking(move || tcdrain(line));
                self.all_sent = match timeout(SENT_WITHIN, &mut draining).await {
                    Ok(drained) => matches!(drained, Ok(Ok(()))),
                    Err(_elapsed) => {
                        // Which ends the waiting, too.
                        self.drop_unsent();
                        match draining.await {
                            Ok(Ok(()) | Err(_)) | Err(_) => false,
                        }
                    }
                };
            }
            match spawn_blocking(move || drop(self)).await {
                Ok(()) | Err(_) => {}
            }
        })
    }

    fn drop_unsent(&self) {
        match tcflush(&self.reader, QueueSelector::OFlush) {
            // A port that is gone has none.
            Ok(()) | Err(_) => {}
        }
    }
}

impl AsFd for SerialPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for SerialPort {
    /// Or the kernel would wait with closing for bytes that nobody takes, half a minute long.
    fn drop(&mut self) {
        if !self.all_sent {
            self.drop_unsent();
        }
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
    match access(device, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => None,
        Err(Errno::ACCESS | Errno::PERM) => Some(not_permitted(device, &metadata)),
        Err(other) => Some(format!("{shown}: {}", io::Error::from(other))),
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
