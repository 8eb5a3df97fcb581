//! Operations of dma-bufs, sync files and the console on the memory of a program.

use super::{BASE, boot, space_with_pages};
use abi::dma::*;
use abi::file::PollEvents;
use abi::signal::Signal;
use abi::sync_file::*;
use abi::terminal::*;
use abi::{Errno, Ioctl};
use addr::{PAGE_SIZE, UserVa};
use dma_api::Attrs;
use kernel::dma;
use kernel::fs::char_device;
use kernel::fs::console::{self, Foreground};
use kernel::fs::dma_buf::DmaBufFile;
use kernel::fs::{Caller, File, FileTable};
use kernel::sched;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::AddressSpace;
use program::{BufferAccess, FdTable};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A program with open files.
struct Opener {
    space: Arc<AddressSpace>,
    files: FileTable,
}

impl Opener {
    fn new() -> Self {
        Self { space: space_with_pages(2), files: sched::Mutex::new(FdTable::new(64)) }
    }

    fn caller(&self) -> Caller<'_> {
        Caller { process_id: 1, space: &self.space, files: &self.files }
    }

    fn memory(&self) -> UserMemory<'_> {
        UserMemory::new(&self.space)
    }

    /// An ioctl whose argument is a structure.
    fn ioctl<T: FromBytes + IntoBytes + Immutable>(
        &self,
        file: &dyn File,
        request: u32,
        argument: &mut T,
    ) -> Result<u64, Errno> {
        self.memory().write(BASE, argument).unwrap();
        let result = file.ioctl(&self.caller(), request, BASE.raw());
        *argument = self.memory().read(BASE).unwrap();
        result
    }

    fn run<T: FromBytes + IntoBytes + Immutable>(
        &self,
        fd: i32,
        request: Ioctl,
        argument: &mut T,
    ) -> Result<u64, Errno> {
        let open = self.files.lock().get(fd).unwrap().file.clone();
        self.ioctl(open.file(), request.raw(), argument)
    }

    fn poll(&self, fd: i32) -> PollEvents {
        let open = self.files.lock().get(fd).unwrap().file.clone();
        open.file().poll()
    }

    fn export(&self, buffer: &DmaBufFile, flags: SyncFlags) -> i32 {
        let mut argument = BufferSyncFile { flags: flags.bits() as u32, fd: -1 };
        self.ioctl(buffer, DMA_BUF_IOCTL_EXPORT_SYNC_FILE.raw(), &mut argument).unwrap();
        argument.fd
    }

    /// The description of a sync file, and those of its first two fences.
    fn info(&self, fd: i32, room: u32) -> Result<(SyncFileInfo, [SyncFenceInfo; 2]), Errno> {
        let fences = BASE + PAGE_SIZE;
        self.memory().write(fences, &[SyncFenceInfo::new_zeroed(); 2]).unwrap();
        let sync_fence_info = fences.raw();
        let mut info = SyncFileInfo { num_fences: room, sync_fence_info, ..FromZeros::new_zeroed() };
        self.run(fd, SYNC_IOC_FILE_INFO, &mut info)?;
        Ok((info, self.memory().read(fences).unwrap()))
    }

    fn merge(&self, fd: i32, fd2: i32, name: [u8; SYNC_NAME_LEN]) -> Result<SyncMerge, Errno> {
        let mut argument = SyncMerge { name, fd2, fence: -1, flags: 0, pad: 0 };
        self.run(fd, SYNC_IOC_MERGE, &mut argument).map(|_| argument)
    }
}

fn buffer(pages: u64) -> DmaBufFile {
    DmaBufFile::new(dma::alloc_unattached(pages * PAGE_SIZE, Attrs::empty()).unwrap(), "system").unwrap()
}

#[test]
fn sync_file_has_the_state_of_all_its_fences() {
    let _kernel = boot();
    let (opener, buffer) = (Opener::new(), buffer(1));
    let start = |access| buffer.dma_buf().unwrap().start_access("fake", "device", access).unwrap();
    let (reader, writer) = (start(BufferAccess::Read), start(BufferAccess::Write));
    assert_eq!(buffer.poll(), PollEvents::empty());
    let (all, writes) = (opener.export(&buffer, SyncFlags::WRITE), opener.export(&buffer, SyncFlags::READ));
    let (info, fences) = opener.info(all, 2).unwrap();
    assert_eq!((info.status, info.num_fences, fences.map(|fence| fence.status)), (0, 2, [0, 0]));
    assert_eq!((fences[0].timestamp_ns, opener.poll(all)), (0, PollEvents::empty()));
    assert_eq!(opener.info(all, 1), Err(Errno::EINVAL), "no room for the second");
    assert_eq!(opener.info(all, 0).unwrap().0.num_fences, 2, "the number only");
    writer.signal(Err(Errno::ENODEV));
    assert_eq!((buffer.poll(), opener.poll(writes)), (PollEvents::IN, PollEvents::IN));
    assert_eq!(opener.info(writes, 2).unwrap().0.status, -19);
    // Pending, which precedes the error of a later fence.
    let (info, fences) = opener.info(all, 2).unwrap();
    assert_eq!((info.status, fences.map(|fence| fence.status)), (0, [0, -19]));
    reader.signal(Ok(()));
    let (info, fences) = opener.info(all, 2).unwrap();
    assert_eq!((info.status, fences.map(|fence| fence.status)), (-19, [1, -19]));
    assert_eq!((buffer.poll(), opener.poll(all)), (PollEvents::IN | PollEvents::OUT, PollEvents::IN));
}

#[test]
fn first_error_is_that_of_the_sync_file() {
    let _kernel = boot();
    let (opener, buffer) = (Opener::new(), buffer(1));
    let start = || buffer.dma_buf().unwrap().start_access("fake", "device", BufferAccess::Read).unwrap();
    let (first, second) = (start(), start());
    let all = opener.export(&buffer, SyncFlags::WRITE);
    first.signal(Err(Errno::EIO));
    second.signal(Ok(()));
    assert_eq!(opener.info(all, 2).unwrap().0.status, -5);
}

#[test]
fn merged_sync_file_has_its_name_and_checks_its_arguments() {
    let _kernel = boot();
    let (opener, buffer) = (Opener::new(), buffer(1));
    let file = opener.export(&buffer, SyncFlags::READ);
    let (info, fences) = opener.info(file, 1).unwrap();
    assert_eq!((info.status, info.num_fences, fences[0].status), (1, 1, 1), "the fence of an idle buffer");
    assert_eq!(opener.info(file, 0).unwrap().0.num_fences, 1);
    let merged = opener.merge(file, file, [b'n'; SYNC_NAME_LEN]).unwrap();
    let mut terminated = [b'n'; SYNC_NAME_LEN];
    terminated[SYNC_NAME_LEN - 1] = 0;
    assert_eq!((merged.name, opener.info(merged.fence, 0).unwrap().0.name), (terminated, terminated));
    let mut name = [b'r'; SYNC_NAME_LEN];
    name[2] = 0;
    let merged = opener.merge(file, file, name).unwrap();
    let named = opener.info(merged.fence, 0).unwrap().0.name;
    assert_eq!(named[..3], *b"rr\0");
    assert_eq!(named[3..], [0; SYNC_NAME_LEN - 3], "bytes after the end of the name");
    assert_eq!(opener.merge(file, 99, name).map(|merged| merged.fence), Err(Errno::ENOENT));
    for (flags, pad) in [(1, 0), (0, 1)] {
        let mut argument = SyncMerge { name, fd2: file, fence: -1, flags, pad };
        assert_eq!(opener.run(file, SYNC_IOC_MERGE, &mut argument), Err(Errno::EINVAL));
        let mut argument = SyncFileInfo { flags, pad, ..FromZeros::new_zeroed() };
        assert_eq!(opener.run(file, SYNC_IOC_FILE_INFO, &mut argument), Err(Errno::EINVAL));
    }
    for (pad, expected) in [(0, Ok(0)), (1, Err(Errno::EINVAL))] {
        let mut argument = SyncDeadline { deadline_ns: 1, pad };
        assert_eq!(opener.run(file, SYNC_IOC_SET_DEADLINE, &mut argument), expected);
    }
}

#[test]
fn chunks_are_listed_from_the_requested_one() {
    let _kernel = boot();
    let opener = Opener::new();
    let buffer =
        DmaBufFile::new(dma::alloc_unattached(5 * PAGE_SIZE, Attrs::ALLOC_SINGLE_PAGES).unwrap(), "system")
            .unwrap();
    let query = |first, capacity| {
        let chunks = (BASE + PAGE_SIZE).raw();
        let mut query = ChunkQuery { first, capacity, chunks, written: 99, total: 99 };
        opener.ioctl(&buffer, DMA_BUF_CHUNKS.raw(), &mut query).unwrap();
        let chunks: [BufferChunk; 5] = opener.memory().read(BASE + PAGE_SIZE).unwrap();
        (query.total, query.written, chunks[..query.written as usize].to_vec())
    };
    let (total, written, all) = query(0, 9);
    assert_eq!((total, written), (5, 5));
    assert!(all.iter().all(|chunk| chunk.len == PAGE_SIZE && chunk.iova == NOT_ATTACHED));
    assert_eq!(query(3, 9), (5, 2, all[3..].to_vec()));
    assert_eq!(query(1, 2), (5, 2, all[1..3].to_vec()));
    assert_eq!([query(5, 9), query(6, 9)], [(5, 0, vec![]), (5, 0, vec![])]);
    assert_eq!([buffer.seek(0, 2), buffer.seek(1, 2)], [Ok(5 * PAGE_SIZE), Err(Errno::EINVAL)]);
}

/// The foreground process of the test's console.
#[derive(Default)]
struct SignalRecorder(Mutex<Vec<Signal>>);

impl Foreground for SignalRecorder {
    fn id(&self) -> u32 {
        7
    }
    fn signal(&self, signal: Signal) {
        self.0.lock().unwrap().push(signal);
    }
}

fn open_console() -> Box<dyn File> {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(kernel::fs::init);
    let devices = char_device::all();
    let is_console = |path: &String| path == "/dev/console";
    devices.iter().find(|device| device.paths().iter().any(is_console)).unwrap().open().unwrap()
}

#[test]
fn suspended_output_is_written_after_its_resumption() {
    let _kernel = boot();
    let (opener, console) = (Opener::new(), open_console());
    let flow = |action| console.ioctl(&opener.caller(), TCXONC, action);
    assert_eq!(flow(TCOOFF), Ok(0));
    assert_eq!(console.poll(), PollEvents::empty());
    assert_eq!(console.write(opener.memory(), BASE, 10), Err(Errno::EAGAIN));
    assert_eq!(flow(TCOON), Ok(0));
    assert_eq!(console.poll(), PollEvents::OUT);
    assert_eq!(console.write(opener.memory(), BASE, 2000), Ok(2000));
    assert_eq!([flow(TCIOFF), flow(TCION), flow(4)], [Ok(0), Ok(0), Err(Errno::EINVAL)]);
}

#[test]
fn write_ends_before_the_unmapped_part_of_its_buffer() {
    let _kernel = boot();
    let (opener, console) = (Opener::new(), open_console());
    let end = BASE + 2 * PAGE_SIZE;
    let write = |from: UserVa| console.write(opener.memory(), from, 4096);
    assert_eq!(write(UserVa::new(end.raw() - 1024)), Ok(1024));
    assert_eq!(write(end), Err(Errno::EFAULT));
}

#[test]
fn foreground_process_learns_of_a_changed_size_only() {
    let _kernel = boot();
    let (opener, console) = (Opener::new(), open_console());
    let recorder = Arc::new(SignalRecorder::default());
    let weak: Weak<dyn Foreground> = Arc::downgrade(&(recorder.clone() as Arc<dyn Foreground>));
    console::set_foreground(weak);
    let mut size: WinSize = FromZeros::new_zeroed();
    opener.ioctl(&*console, TIOCGWINSZ, &mut size).unwrap();
    opener.ioctl(&*console, TIOCSWINSZ, &mut size).unwrap();
    assert_eq!(*recorder.0.lock().unwrap(), []);
    size.rows += 1;
    opener.ioctl(&*console, TIOCSWINSZ, &mut size).unwrap();
    assert_eq!(*recorder.0.lock().unwrap(), [Signal::SIGWINCH]);
    let mut group = 0i32;
    for request in [TIOCGPGRP, TIOCGSID] {
        opener.ioctl(&*console, request, &mut group).unwrap();
        assert_eq!(group, 7);
    }
    for (mut group, result) in [(7i32, Ok(0)), (8, Err(Errno::EPERM)), (-7, Err(Errno::EINVAL))] {
        assert_eq!(opener.ioctl(&*console, TIOCSPGRP, &mut group), result);
    }
    let breaks = [0, 1].map(|argument| console.ioctl(&opener.caller(), TCSBRK, argument));
    assert_eq!(breaks, [Err(Errno::EINVAL), Ok(0)]);
    drop(recorder);
    assert_eq!(opener.ioctl(&*console, TIOCGPGRP, &mut group), Err(Errno::ENOTTY));
}
