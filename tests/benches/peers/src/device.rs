//! What the device is given: sectors written by a loop device under a fresh ext4, its journal included.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BATCHES, Kind, Outcome, RECORD_BYTES, batch, place};

const VOLUME_BYTES: u64 = 2 << 30;
const SECTOR_BYTES: u64 = 512;
/// The field of `/sys/block/*/stat` that counts written sectors.
const WRITTEN: usize = 6;
/// Before anything is counted: a round through the segments that a store recycles.
const WARM_UP_BYTES: usize = 40 << 20;
/// Payload that is counted, at each batch.
const PAYLOAD_BYTES: [usize; 3] = [1 << 19, 16 << 20, 64 << 20];

pub fn measure() -> Outcome<()> {
    println!(
        "bytes written to the device per byte of payload, records of {RECORD_BYTES} bytes, a fresh ext4 each, journal included"
    );
    for (records, payload_bytes) in BATCHES.into_iter().zip(PAYLOAD_BYTES) {
        for kind in Kind::ALL {
            let written = written(kind, records, payload_bytes)?;
            println!(
                "batch {records:>3}  {:<40} {:>6.2}",
                kind.name(),
                written as f64 / payload_bytes as f64
            );
        }
    }
    Ok(())
}

fn written(kind: Kind, records: usize, payload_bytes: usize) -> Outcome<u64> {
    let volume = Volume::mount()?;
    let mut store = kind.open(&volume.mount)?;
    let mut number = 0;
    let mut keep = |bytes: usize, records: usize| -> Outcome<()> {
        for _ in 0..bytes / (records * RECORD_BYTES) {
            let batch = batch(records, number);
            store.offer(&batch);
            store.put(&batch)?;
            store.tend()?;
            number += 1;
        }
        Ok(())
    };
    keep(WARM_UP_BYTES, BATCHES[2])?;
    let before = volume.sectors()?;
    keep(payload_bytes, records)?;
    Ok((volume.sectors()? - before) * SECTOR_BYTES)
}

struct Volume {
    mount: PathBuf,
    device: String,
    _files: tempfile::TempDir,
}

impl Volume {
    fn mount() -> Outcome<Self> {
        let files = tempfile::tempdir_in(place())?;
        let image = files.path().join("image");
        File::create(&image)?.set_len(VOLUME_BYTES)?;
        let mount = files.path().join("mount");
        std::fs::create_dir(&mount)?;
        // What ext4 would write in the background to initialise itself must not be counted.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-E", lazy])
            .arg(&image))?;
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&image))?;
        let device = device.trim().to_owned();
        run(Command::new("mount").arg(&device).arg(&mount))?;
        Ok(Self {
            mount,
            device,
            _files: files,
        })
    }

    /// Written so far, with all that the file system still held back.
    fn sectors(&self) -> Outcome<u64> {
        run(Command::new("sync").arg("-f").arg(&self.mount))?;
        let name = self.device.trim_start_matches("/dev/");
        let stat = Path::new("/sys/block").join(name).join("stat");
        let stat = std::fs::read_to_string(stat)?;
        let field = stat
            .split_whitespace()
            .nth(WRITTEN)
            .ok_or("no such field")?;
        Ok(field.parse()?)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for command in [
            Command::new("umount").arg("-l").arg(&self.mount),
            Command::new("losetup").arg("-d").arg(&self.device),
        ] {
            if let Err(error) = run(command) {
                eprintln!("{error}");
            }
        }
    }
}

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}", words.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
