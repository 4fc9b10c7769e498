//! Serial ports, over pseudo-terminals of the kernel: the device holds the other end.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{ControlModes, InputModes, LocalModes, Termios, tcgetattr};
use tokio::net::unix::pipe;

use super::*;

/// The device's end, and the file of ours.
struct Device {
    reader: pipe::Receiver,
    writer: pipe::Sender,
    file: PathBuf,
}

impl Device {
    fn plugged_in() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let end = openpt(flags).unwrap();
        grantpt(&end).unwrap();
        unlockpt(&end).unwrap();
        rustix::io::ioctl_fionbio(&end, true).unwrap();
        let file = ptsname(&end, Vec::new()).unwrap().into_bytes();
        let end = File::from(end);
        Self {
            writer: pipe::Sender::from_file_unchecked(end.try_clone().unwrap()).unwrap(),
            reader: pipe::Receiver::from_file_unchecked(end).unwrap(),
            file: OsString::from_vec(file).into(),
        }
    }

    /// As the driver of our end has it.
    fn settings(&self) -> Termios {
        tcgetattr(&self.reader).unwrap()
    }

    async fn hears(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        timeout(PATIENCE, self.reader.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, expected);
    }

    async fn says(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.writer.write_all(bytes))
            .await
            .unwrap()
            .unwrap();
    }
}

struct Port {
    streams: Streams,
    events: mpsc::Receiver<StreamEvent>,
}

impl Port {
    fn granted(file: &Path, line: &str) -> Self {
        let url = format!("serial://{}?{line}", file.display());
        let grants = [("meter".to_owned(), url.parse().unwrap())];
        let (streams, events) = Streams::spawn(&grants);
        Self { streams, events }
    }

    async fn open(&mut self) -> u32 {
        let id = self.streams.open("meter").await.unwrap();
        assert_eq!(self.event().await, Happened::Connected);
        id
    }

    async fn refused(&mut self) -> String {
        self.streams.open("meter").await.unwrap();
        match self.event().await {
            Happened::Closed(reason) => reason,
            other @ (Happened::Connected | Happened::Data(_)) => panic!("{other:?}"),
        }
    }

    async fn event(&mut self) -> Happened {
        let event = timeout(PATIENCE, self.events.recv()).await.unwrap();
        event.unwrap().happened
    }
}

/// Everything a terminal would make something of.
const TOUCHY: &[u8] = b"\0\x03\x04\x11\x13\x1a\x1c\r\n\x7f\x80\xff\0";

#[tokio::test]
async fn every_byte_passes_as_it_is_and_none_is_echoed() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=19200");
    let id = port.open().await;
    let exchange = port.streams.exchange(
        id,
        TOUCHY.to_vec(),
        FrameRule::Fixed(TOUCHY.len()),
        PATIENCE,
    );
    let serve = async {
        device.hears(TOUCHY).await;
        device.says(TOUCHY).await;
    };
    let (answer, ()) = tokio::join!(exchange, serve);
    assert_eq!(answer.unwrap(), TOUCHY);
    port.streams.write(id, b"again".to_vec()).await.unwrap();
    device.hears(b"again").await;
}

#[tokio::test]
async fn the_line_is_set_up_as_it_is_written() {
    let device = Device::plugged_in();
    let mut port = Port::granted(
        &device.file,
        "baud=300&data_bits=7&parity=even&stop_bits=2&flow_control=xon-xoff",
    );
    port.open().await;
    let got = device.settings();
    assert_eq!((got.input_speed(), got.output_speed()), (300, 300));
    let control = ControlModes::CLOCAL | ControlModes::CREAD | ControlModes::CSTOPB;
    assert!(got.control_modes.contains(control), "{got:?}");
    let input = InputModes::INPCK | InputModes::IXON | InputModes::IXOFF | InputModes::IGNBRK;
    assert_eq!(got.input_modes, input, "{got:?}");
    let canonical = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    assert!(!got.local_modes.intersects(canonical), "{got:?}");
    let unusual = Device::plugged_in();
    Port::granted(&unusual.file, "baud=12345").open().await;
    assert_eq!(unusual.settings().output_speed(), 12345);
}

#[tokio::test]
async fn what_was_left_over_is_not_taken_for_an_answer() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=9600");
    let id = port.open().await;
    device.says(b"late").await;
    let exchange = port
        .streams
        .exchange(id, vec![1], FrameRule::Fixed(2), PATIENCE);
    let serve = async {
        device.hears(&[1]).await;
        device.says(b"ok").await;
    };
    assert_eq!(tokio::join!(exchange, serve).0, Ok(b"ok".to_vec()));
}

#[tokio::test]
async fn silence_completes_a_frame_that_comes_in_pieces() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=9600&parity=even");
    let id = port.open().await;
    let gap = FrameRule::IdleGap(Duration::from_millis(200));
    let exchange = port.streams.exchange(id, vec![1], gap, PATIENCE);
    let serve = async {
        device.hears(&[1]).await;
        for piece in [&b"ab"[..], b"c", b"defg"] {
            device.says(piece).await;
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::join!(exchange, serve).0, Ok(b"abcdefg".to_vec()));
}

#[tokio::test]
async fn a_long_answer_is_whole() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=115200");
    let id = port.open().await;
    let long: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let exchange = port
        .streams
        .exchange(id, vec![1], FrameRule::Fixed(long.len()), PATIENCE);
    let serve = async {
        device.hears(&[1]).await;
        device.says(&long).await;
    };
    assert_eq!(tokio::join!(exchange, serve).0.unwrap(), long);
}

#[tokio::test]
async fn a_port_that_is_unplugged_hangs_up_and_is_missed_when_it_is_opened() {
    let device = Device::plugged_in();
    let file = device.file.clone();
    let mut port = Port::granted(&file, "baud=9600");
    let id = port.open().await;
    drop(device);
    let Happened::Closed(reason) = port.event().await else {
        panic!("it did not close");
    };
    assert!(
        reason.starts_with(&format!("{} hung up: it was unplugged", file.display())),
        "{reason}"
    );
    let answer = port
        .streams
        .exchange(id, vec![1], FrameRule::Fixed(1), PATIENCE)
        .await;
    assert_eq!(answer, Err(StreamFault::Closed(reason)));
    let reason = port.refused().await;
    assert!(
        reason.contains("is not there: is it plugged in"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_exchange_under_way_hears_of_a_hang_up() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=9600");
    let id = port.open().await;
    let exchange = port
        .streams
        .exchange(id, vec![1], FrameRule::Fixed(9), PATIENCE);
    let serve = async {
        device.hears(&[1]).await;
        device.says(b"half").await;
        drop(device);
    };
    let answer = tokio::join!(exchange, serve).0;
    assert!(
        matches!(&answer, Err(StreamFault::Closed(reason)) if reason.contains("hung up")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_port_has_one_user_until_it_is_closed() {
    let mut device = Device::plugged_in();
    let mut first = Port::granted(&device.file, "baud=9600");
    let mut second = Port::granted(&device.file, "baud=300");
    let id = first.open().await;
    let reason = second.refused().await;
    assert!(
        reason.contains("is in use: `fuser -v /dev/pts/"),
        "{reason}"
    );
    assert_eq!(
        device.settings().output_speed(),
        9600,
        "nothing was changed"
    );
    first.streams.write(id, b"bye".to_vec()).await.unwrap();
    first.streams.close(id).await;
    // At once after the close, and what was written before it arrives.
    first.open().await;
    device.hears(b"bye").await;
    first.streams.close(id).await;
    second.streams.open("meter").await.unwrap();
    while second.event().await != Happened::Connected {
        second.streams.open("meter").await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_changes_its_mind_does_not_meet_itself() {
    let device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=9600");
    for _ in 0..20 {
        let id = port.streams.open("meter").await.unwrap();
        port.streams.close(id).await;
    }
    port.open().await;
}

#[tokio::test]
async fn what_is_no_serial_port_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Not one of them is opened to find out.
    for path in [&file, Path::new("/dev/null"), Path::new("/dev/zero")] {
        let reason = Port::granted(path, "baud=9600").refused().await;
        assert_eq!(reason, format!("{} is no serial port", path.display()));
    }
}

#[tokio::test]
async fn a_guest_that_opens_what_is_not_there_in_a_circle_is_paced() {
    let mut port = Port::granted(Path::new("/dev/moorline-none"), "baud=9600");
    let first = port.refused().await;
    let told = Instant::now();
    let id = port.streams.open("meter").await.unwrap();
    // Whoever asks meanwhile hears why, not that it takes long.
    let short = Duration::from_millis(50);
    let answer = port
        .streams
        .exchange(id, vec![1], FrameRule::Fixed(1), short)
        .await;
    assert_eq!(answer, Err(StreamFault::Closed(first.clone())));
    assert_eq!(port.event().await, Happened::Closed(first));
    assert!(
        told.elapsed() > Duration::from_millis(900),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn what_stands_for_terminals_is_refused_before_it_is_opened() {
    for path in ["/dev/ptmx", "/dev/tty"] {
        let trouble = device_trouble(Path::new(path)).unwrap();
        assert!(
            trouble.starts_with(&format!("{path} is no serial port: it stands for")),
            "{trouble}"
        );
    }
}

#[tokio::test]
async fn what_was_written_last_leaves_when_the_instance_ends() {
    let mut device = Device::plugged_in();
    let mut port = Port::granted(&device.file, "baud=9600");
    let id = port.open().await;
    port.streams.write(id, b"bye".to_vec()).await.unwrap();
    port.streams.end().await;
    device.hears(b"bye").await;
    // It is closed by then: somebody else can have it at once.
    Port::granted(&device.file, "baud=300").open().await;
}

/// A driver that opens a port when it is let, and not before.
#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_in_opening_costs_one_thread_and_is_told() {
    let device = Device::plugged_in();
    let url = format!("serial://{}?baud=9600", device.file.display());
    let StreamTarget::Serial(target) = url.parse().unwrap() else {
        panic!("{url}");
    };
    let berth = Berth::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (let_go, hanging) = sync_channel::<()>(1);
    let (calling, called) = sync_channel(1);
    let hanging_driver = {
        let calls = Arc::clone(&calls);
        move |_: &_| {
            calls.fetch_add(1, Ordering::SeqCst);
            calling.send(()).unwrap();
            match hanging.recv() {
                Ok(()) | Err(_) => Err::<File, _>("gone".to_owned()),
            }
        }
    };
    let within = Duration::from_secs(5);
    let Err(first) = berth.open(target.clone(), within, hanging_driver).await else {
        panic!("it opened");
    };
    assert!(
        first.ends_with("its driver has not opened it within 5 s"),
        "{first}"
    );
    // The clock that stands still does not wait for threads.
    called.recv_timeout(PATIENCE).unwrap();
    for _ in 0..1_000 {
        let calls = Arc::clone(&calls);
        let again = move |_: &_| {
            calls.fetch_add(1, Ordering::SeqCst);
            Err::<File, _>("called".to_owned())
        };
        let Err(reason) = berth.open(target.clone(), within, again).await else {
            panic!("it opened");
        };
        assert!(reason.contains("still has not opened it"), "{reason}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The end does not wait for it.
    let ending = Instant::now();
    berth.closed().await;
    assert_eq!(ending.elapsed(), Duration::ZERO);
    let_go.send(()).unwrap();
    tokio::time::resume();
    let opened = timeout(PATIENCE, Line::open(&url.parse().unwrap(), &berth)).await;
    assert!(matches!(opened, Ok(Ok(Line::Serial(_)))), "{opened:?}");
}
