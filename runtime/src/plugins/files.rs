//! `wasi:filesystem`, where it opens, makes, writes or removes something: opened is what is counted and no pipe, and what is written
//! is asked of the [`Directories`] first. The names and the way to them remain wasmtime's: it lets none lead out of its directory.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use moorline_core::confine::{Limit, Quota};
use tokio::sync::mpsc;
use wasmtime::component::{Linker, LinkerInstance, Resource};
use wasmtime_wasi::FsPerms;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, Host as _, HostDescriptor as _,
    MetadataHashValue, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsResult, OutputStream, Pollable, StreamError, StreamResult,
};

use super::descriptors::Place;
use super::directories::{self, At, Desk, FileId, UnderWay, Unwritten};
use super::meter::Meter;
use super::store::HostState;
use super::wasi::Said;

/// Bytes of one write to a stream: what the host keeps of it.
const WRITE_BYTES_MAX: usize = 64 * 1024;

pub(super) const INTERFACE: &str = "wasi:filesystem/types@0.2.12";
/// The functions of open files that are ours.
const OF_FILES: [&str; 6] = [
    "[method]descriptor.open-at",
    "[method]descriptor.read-via-stream",
    "[method]descriptor.write-via-stream",
    "[method]descriptor.append-via-stream",
    "[method]descriptor.write",
    "[method]descriptor.set-size",
];
/// And those of names.
const OF_NAMES: [&str; 6] = [
    "[method]descriptor.create-directory-at",
    "[method]descriptor.remove-directory-at",
    "[method]descriptor.unlink-file-at",
    "[method]descriptor.rename-at",
    "[method]descriptor.link-at",
    "[method]descriptor.symlink-at",
];

/// All functions that [`define`] defines.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    OF_FILES.into_iter().chain(OF_NAMES)
}

type Dir = Resource<Descriptor>;

pub(super) fn define(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut files = linker.instance(INTERFACE)?;
    define_of_files(&mut files)?;
    define_of_names(&mut files)
}

fn define_of_files(files: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    let [
        open_at,
        read_via_stream,
        write_via_stream,
        append_via_stream,
        write_at,
        set_size,
    ] = OF_FILES;
    files.func_wrap_async(open_at, |mut store, opening| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let opened = open(state, opening).await;
            told(state, opened)
        })
    })?;
    files.func_wrap(read_via_stream, |mut store, (file, offset)| {
        let state: &mut HostState = store.data_mut();
        let reader = read(state, file, offset);
        told(state, reader)
    })?;
    files.func_wrap(write_via_stream, |mut store, (file, offset)| {
        let state: &mut HostState = store.data_mut();
        let writer = writer(state, &file, At::Offset(offset));
        told(state, writer)
    })?;
    files.func_wrap(append_via_stream, |mut store, (file,)| {
        let state: &mut HostState = store.data_mut();
        let writer = writer(state, &file, At::End);
        told(state, writer)
    })?;
    files.func_wrap_async(write_at, |mut store, (file, bytes, offset)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let written = write(state, &file, bytes, offset).await;
            told(state, written)
        })
    })?;
    files.func_wrap_async(set_size, |mut store, (file, length)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let set = set_length(state, &file, length).await;
            told(state, set)
        })
    })?;
    Ok(())
}

fn define_of_names(files: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    let [
        create_directory_at,
        remove_directory_at,
        unlink_file_at,
        rename_at,
        link_at,
        symlink_at,
    ] = OF_NAMES;
    files.func_wrap_async(create_directory_at, |mut store, (directory, path)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let created = create_directory(state, directory, path).await;
            told(state, created)
        })
    })?;
    files.func_wrap_async(remove_directory_at, |mut store, (directory, path)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let removed = remove_directory(state, directory, path).await;
            told(state, removed)
        })
    })?;
    files.func_wrap_async(unlink_file_at, |mut store, (directory, path)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let unlinked = unlink(state, directory, path).await;
            told(state, unlinked)
        })
    })?;
    files.func_wrap_async(rename_at, |mut store, (from, path, to, new)| {
        Box::new(async move {
            let state: &mut HostState = store.data_mut();
            let renamed = rename(state, (from, path), (to, new)).await;
            told(state, renamed)
        })
    })?;
    files.func_wrap(link_at, |mut store, names| {
        let _: (Dir, PathFlags, String, Dir, String) = names;
        let state: &mut HostState = store.data_mut();
        let refused = link(state);
        told(state, refused)
    })?;
    files.func_wrap(symlink_at, |mut store, names| {
        let _: (Dir, String, String) = names;
        let state: &mut HostState = store.data_mut();
        let refused = link(state);
        told(state, refused)
    })?;
    Ok(())
}

/// In the guest's words.
fn told<T>(
    state: &mut HostState,
    result: FsResult<T>,
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(state.filesystem().convert_error_code(error)?),)),
    }
}

/// Whether what is at or below it may be written.
fn is_writable(state: &mut HostState, at: &Dir) -> FsResult<bool> {
    let perms = match state.filesystem().table.get(at)? {
        Descriptor::Dir(directory) => directory.perms,
        Descriptor::File(file) => file.perms,
    };
    Ok(perms == FsPerms::ReadWrite)
}

/// That what is at or below it may be written.
fn must_be_writable(state: &mut HostState, at: &Dir) -> FsResult<()> {
    if is_writable(state, at)? {
        return Ok(());
    }
    state.net.refuse(
        "writing in a directory; what may be written stands in writable_directories of [connector.grants]",
    );
    Err(ErrorCode::NotPermitted.into())
}

fn file_to_write(state: &mut HostState, at: &Dir) -> FsResult<Arc<File>> {
    must_be_writable(state, at)?;
    match state.filesystem().table.get(at)? {
        Descriptor::File(file) => Ok(file.file.clone()),
        Descriptor::Dir(_) => Err(ErrorCode::IsDirectory.into()),
    }
}

/// Where writing is handed in. A guest that does not serve yet has no such place: another may be writing.
fn desk(state: &mut HostState) -> FsResult<Desk> {
    let resident = state.resident.as_mut();
    match resident.and_then(|resident| resident.directories.as_mut()) {
        Some(directories) => Ok(directories.desk()?),
        None => Err(ErrorCode::NotPermitted.into()),
    }
}

/// Does `work` when all that was handed in before is done.
async fn change<T: Send + 'static>(
    state: &mut HostState,
    work: impl FnOnce(&mut Quota) -> Result<T, Unwritten> + Send + 'static,
) -> FsResult<T> {
    let meter = state.cpu.meter.clone();
    let done = match desk(state)?.hand_in(meter, work) {
        Ok(under_way) => under_way.await,
        Err(refused) => Err(refused),
    };
    done.map_err(|unwritten| match unwritten {
        Unwritten::Full(limit) => {
            state.net.exceed(limit);
            ErrorCode::InsufficientSpace.into()
        }
        Unwritten::Medium(error) => error.into(),
    })
}

/// Waits for what was handed in before, so that what is looked at next is as it was counted.
async fn settled(state: &mut HostState) -> FsResult<()> {
    change(state, |_quota| Ok(())).await
}

async fn forget_entry(state: &mut HostState, bytes: u64) -> FsResult<()> {
    change(state, move |quota| {
        quota.remove(bytes);
        Ok(())
    })
    .await
}

/// The directory, how links are followed, the path in it, and how it is opened.
type Opening = (Dir, PathFlags, String, OpenFlags, DescriptorFlags);

/// Files and directories only. To open a pipe could wait for a writer for ever, on a thread of the host's; to open a device could
/// do anything. Who puts one in the place of a file between the look and the opening is no guest: none can make one, or move one.
async fn open(state: &mut HostState, opening: Opening) -> FsResult<Dir> {
    let (directory, follow, path, how, flags) = opening;
    let Ok(place) = state.take_descriptor() else {
        return Err(ErrorCode::Quota.into());
    };
    let writes = how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
        || flags.contains(DescriptorFlags::WRITE);
    let counted = is_writable(state, &directory)?;
    if counted {
        settled(state).await?;
    } else if writes {
        must_be_writable(state, &directory)?;
    }
    let there = Resource::new_borrow(directory.rep());
    let mut view = state.filesystem();
    let found = view.stat_at(there, follow, path.clone()).await;
    match found.as_ref().map(|found| (found.type_, found.link_count)) {
        Ok((
            DescriptorType::Unknown
            | DescriptorType::BlockDevice
            | DescriptorType::CharacterDevice
            | DescriptorType::Fifo
            | DescriptorType::Socket,
            _,
        )) => return Err(ErrorCode::Unsupported.into()),
        // Another name of it may lie anywhere.
        Ok((DescriptorType::RegularFile, 2..)) if writes => {
            return Err(ErrorCode::NotPermitted.into());
        }
        // What is wrong with it, opening it says.
        Ok((
            DescriptorType::Directory | DescriptorType::RegularFile | DescriptorType::SymbolicLink,
            _,
        ))
        | Err(_) => {}
    }
    let made = counted && found.is_err() && how.contains(OpenFlags::CREATE);
    let opened = if counted {
        open_counted(state, (directory, follow, path, how, flags), made).await?
    } else {
        view.open_at(directory, follow, path, how, flags).await?
    };
    state.descriptors.hold(&opened, place);
    note(state, &opened).await?;
    Ok(opened)
}

/// A file is open, by whichever of its directories: it may be one that another of them lets the guest remove.
async fn note(state: &mut HostState, opened: &Dir) -> FsResult<()> {
    let resident = state.resident.as_ref();
    if resident.is_none_or(|resident| resident.directories.is_none()) {
        return Ok(());
    }
    let mut view = state.filesystem();
    let Descriptor::File(file) = view.table.get(opened)? else {
        return Ok(());
    };
    let file = file.file.clone();
    let there = Resource::new_borrow(opened.rep());
    let id = file_id(view.metadata_hash(there).await?);
    let resident = state.resident.as_mut();
    if let Some(directories) = resident.and_then(|resident| resident.directories.as_mut()) {
        directories.opened(id, &file);
    }
    Ok(())
}

/// Opens it in a directory that may be written; `made` if it is not there yet.
async fn open_counted(state: &mut HostState, opening: Opening, made: bool) -> FsResult<Dir> {
    let (directory, follow, path, mut how, mut flags) = opening;
    if made {
        change(state, |quota| Ok(quota.add_entry()?)).await?;
    }
    // It is cut where it is counted. Together with DIRECTORY it is refused as it is.
    let cut = how.contains(OpenFlags::TRUNCATE) && !how.contains(OpenFlags::DIRECTORY);
    if cut {
        how &= !OpenFlags::TRUNCATE;
        flags |= DescriptorFlags::WRITE;
    }
    let mut view = state.filesystem();
    let opened = match view.open_at(directory, follow, path, how, flags).await {
        Ok(opened) => opened,
        Err(error) => {
            if made {
                forget_entry(state, 0).await?;
            }
            return Err(error);
        }
    };
    let file = match view.table.get(&opened)? {
        Descriptor::File(file) => file.file.clone(),
        Descriptor::Dir(_) => return Ok(opened),
    };
    if cut {
        let cut = change(state, move |quota| directories::set_length(quota, &file, 0)).await;
        if let Err(error) = cut {
            state.filesystem().table.delete(opened)?;
            return Err(error);
        }
    }
    Ok(opened)
}

/// The stream keeps the file open, even when the guest has dropped it.
fn read(state: &mut HostState, file: Dir, offset: u64) -> FsResult<Resource<DynInputStream>> {
    let place = state.descriptors.shared(&file);
    let stream = state.filesystem().read_via_stream(file, offset)?;
    if let Some(place) = place {
        state.descriptors.hold(&stream, place);
    }
    Ok(stream)
}

/// Each has a place of its own, so that there is a bound to what the host keeps for them.
fn writer(state: &mut HostState, file: &Dir, at: At) -> FsResult<Resource<DynOutputStream>> {
    let file = file_to_write(state, file)?;
    let Ok(place) = state.take_descriptor() else {
        return Err(ErrorCode::Quota.into());
    };
    let writer: DynOutputStream = Box::new(Writer {
        file,
        at,
        desk: desk(state)?,
        meter: state.cpu.meter.clone(),
        said: state.net.said(),
        progress: Progress::Ready,
        place: place.clone(),
    });
    let stream = state.filesystem().table.push(writer)?;
    state.descriptors.hold(&stream, place);
    Ok(stream)
}

async fn write(state: &mut HostState, file: &Dir, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
    let file = file_to_write(state, file)?;
    let at = At::Offset(offset);
    let written = change(state, move |quota| {
        directories::write(quota, &file, &bytes, at)
    });
    Ok(u64::try_from(written.await?).unwrap_or(u64::MAX))
}

async fn set_length(state: &mut HostState, file: &Dir, length: u64) -> FsResult<()> {
    let file = file_to_write(state, file)?;
    change(state, move |quota| {
        directories::set_length(quota, &file, length)
    })
    .await
}

async fn create_directory(state: &mut HostState, directory: Dir, path: String) -> FsResult<()> {
    must_be_writable(state, &directory)?;
    change(state, |quota| Ok(quota.add_entry()?)).await?;
    let made = state
        .filesystem()
        .create_directory_at(directory, path)
        .await;
    if made.is_err() {
        forget_entry(state, 0).await?;
    }
    made
}

async fn remove_directory(state: &mut HostState, directory: Dir, path: String) -> FsResult<()> {
    must_be_writable(state, &directory)?;
    settled(state).await?;
    state
        .filesystem()
        .remove_directory_at(directory, path)
        .await?;
    forget_entry(state, 0).await
}

/// What has this name, whose last it may be.
struct Named {
    id: FileId,
    bytes: u64,
    type_: DescriptorType,
}

async fn named(state: &mut HostState, directory: &Dir, path: &str) -> FsResult<Named> {
    let mut view = state.filesystem();
    let at = || Resource::new_borrow(directory.rep());
    let (itself, path) = (PathFlags::empty(), path.to_owned());
    let DescriptorStat { type_, size, .. } = view.stat_at(at(), itself, path.clone()).await?;
    let id = file_id(view.metadata_hash_at(at(), itself, path).await?);
    let bytes = match type_ {
        DescriptorType::Directory => 0,
        DescriptorType::Unknown
        | DescriptorType::BlockDevice
        | DescriptorType::CharacterDevice
        | DescriptorType::Fifo
        | DescriptorType::SymbolicLink
        | DescriptorType::RegularFile
        | DescriptorType::Socket => size,
    };
    Ok(Named { id, bytes, type_ })
}

fn file_id(hash: MetadataHashValue) -> FileId {
    FileId(hash.lower, hash.upper)
}

/// What somebody has open keeps its name: without it, it would take up room that nobody counts.
fn must_be_closed(state: &HostState, named: &Named) -> FsResult<()> {
    let directories = state.resident.as_ref();
    let directories = directories.and_then(|resident| resident.directories.as_ref());
    if directories.is_some_and(|directories| directories.is_open(named.id)) {
        return Err(ErrorCode::Busy.into());
    }
    Ok(())
}

async fn unlink(state: &mut HostState, directory: Dir, path: String) -> FsResult<()> {
    must_be_writable(state, &directory)?;
    settled(state).await?;
    let named = named(state, &directory, &path).await?;
    must_be_closed(state, &named)?;
    state.filesystem().unlink_file_at(directory, path).await?;
    forget_entry(state, named.bytes).await
}

/// All of an instance's directories have one quota: it need not know which of them the two are.
async fn rename(
    state: &mut HostState,
    (from, path): (Dir, String),
    (to, new): (Dir, String),
) -> FsResult<()> {
    must_be_writable(state, &from)?;
    must_be_writable(state, &to)?;
    settled(state).await?;
    let moved = named(state, &from, &path).await?;
    match moved.type_ {
        DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink => {}
        DescriptorType::Unknown
        | DescriptorType::BlockDevice
        | DescriptorType::CharacterDevice
        | DescriptorType::Fifo
        | DescriptorType::Socket => return Err(ErrorCode::Unsupported.into()),
    }
    let replaced = named(state, &to, &new).await.ok();
    // Two names of one file stay as they are.
    let replaced = replaced.filter(|replaced| replaced.id != moved.id);
    if let Some(replaced) = &replaced {
        must_be_closed(state, replaced)?;
    }
    state.filesystem().rename_at(from, path, to, new).await?;
    match replaced {
        Some(replaced) => forget_entry(state, replaced.bytes).await,
        None => Ok(()),
    }
}

/// Wasmtime's own would keep a link from leading out, for its guests. Others read there, too.
fn link(state: &HostState) -> FsResult<()> {
    state
        .net
        .refuse("a link in a directory; that is granted to nobody");
    Err(ErrorCode::NotPermitted.into())
}

/// A guest's stream into a file.
struct Writer {
    file: Arc<File>,
    at: At,
    desk: Desk,
    meter: Arc<Meter>,
    said: mpsc::Sender<Said>,
    progress: Progress,
    place: Place,
}

enum Progress {
    Ready,
    UnderWay(UnderWay<u64>),
    Failed(std::io::Error),
    Closed,
}

impl Writer {
    fn failed(&mut self, unwritten: Unwritten) {
        let error = match unwritten {
            Unwritten::Full(limit) => {
                exceed(&self.said, limit);
                rustix::io::Errno::NOSPC.into()
            }
            Unwritten::Medium(error) => error,
        };
        self.progress = Progress::Failed(error);
    }

    /// Whether the last write is over, or why there will be none.
    fn last(&mut self) -> StreamResult<bool> {
        match std::mem::replace(&mut self.progress, Progress::Closed) {
            Progress::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            Progress::Closed => Err(StreamError::Closed),
            progress @ (Progress::Ready | Progress::UnderWay(_)) => {
                let ready = matches!(progress, Progress::Ready);
                self.progress = progress;
                Ok(ready)
            }
        }
    }
}

fn exceed(said: &mpsc::Sender<Said>, limit: Limit) {
    match said.try_send(Said::Exceeded(limit)) {
        // Full: the guest is told in any case.
        Ok(()) | Err(_) => {}
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !self.last()? || bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("more was written than is permitted"));
        }
        let (file, at) = (self.file.clone(), self.at);
        // The file stays open until that is done, though the guest may have dropped this.
        let place = self.place.clone();
        let handed_in = self.desk.hand_in(self.meter.clone(), move |quota| {
            let written = directories::write_all(quota, &file, &bytes, at);
            drop((file, place));
            written
        });
        match handed_in {
            Ok(under_way) => self.progress = Progress::UnderWay(under_way),
            Err(unwritten) => self.failed(unwritten),
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.last().map(|_over| ())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let ready = self.last()?;
        Ok(if ready { WRITE_BYTES_MAX } else { 0 })
    }

    async fn cancel(&mut self) {
        self.ready().await;
        self.progress = Progress::Closed;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        let Progress::UnderWay(under_way) = &mut self.progress else {
            return;
        };
        match under_way.await {
            Ok(written) => {
                if let At::Offset(offset) = &mut self.at {
                    *offset += written;
                }
                self.progress = Progress::Ready;
            }
            Err(unwritten) => self.failed(unwritten),
        }
    }
}
