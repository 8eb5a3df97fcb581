//! From a file of the initramfs to a program that is ready to run.

use super::address_space::{AddressSpace, Place};
use super::files::{OpenFile, console};
use super::process::Process;
use super::task::Task;
use super::{random, root};
use crate::sched;
use abi::Errno;
use abi::auxv::*;
use abi::file::OpenFlags;
use abi::memory::Prot;
use addr::{Address, PAGE_SIZE, UserVa};
use alloc::sync::Arc;
use arch::cpu::Features;
use arch::exception::TrapFrame;
use core::fmt;
use program::{Executable, ExecutableError, Kind, Placement, StackImage, StackRequest, TooLong, USER_END};

/// Bytes of the first stack; they come in when they are touched.
pub const STACK_BYTES: u64 = 8 << 20;
/// Where the first stack ends: a page below the end of the address space.
const STACK_TOP: UserVa = UserVa::new(USER_END - PAGE_SIZE);
/// Where programs go that can go anywhere: at two thirds of a smaller address space, as in Linux.
const BIAS: u64 = 0x5555_5555_0000;

/// Why a program did not start.
#[derive(Debug)]
pub enum StartError {
    /// There is no initramfs.
    NoFiles,
    /// Its path leads nowhere.
    Path(Errno),
    /// It is a directory or a device.
    NotAFile,
    /// It is no program for this machine.
    Executable(ExecutableError),
    /// Its segments cannot be placed or filled.
    Memory(Errno),
    /// Its arguments are too long, this many bytes.
    Arguments(TooLong),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles => write!(f, "there is no initramfs"),
            Self::Path(error) => write!(f, "{error}"),
            Self::NotAFile => write!(f, "not a regular file"),
            Self::Executable(error) => write!(f, "{error}"),
            Self::Memory(error) => write!(f, "cannot be loaded: {error}"),
            Self::Arguments(TooLong(bytes)) => write!(f, "{bytes} bytes of arguments are too long"),
        }
    }
}

/// Starts the program at `path` with these arguments (the first is its name) and environment. Descriptors 0, 1 and 2 are
/// the console.
///
/// # Errors
/// See [`StartError`]; nothing is left behind.
pub fn start(path: &[u8], arguments: &[&[u8]], environment: &[&[u8]]) -> Result<Arc<Process>, StartError> {
    let file = read_file(path)?;
    let executable = place(Executable::parse(file).map_err(StartError::Executable)?)?;
    let space = AddressSpace::new().ok_or(StartError::Memory(Errno::ENOMEM))?;
    load(&space, &executable, file).map_err(StartError::Memory)?;
    let request = StackRequest {
        top: STACK_TOP,
        path,
        arguments,
        environment,
        random: random::bytes(),
        auxiliary: &auxiliary(&executable),
    };
    let stack = StackImage::build(&request).map_err(StartError::Arguments)?;
    load_stack(&space, &stack).map_err(StartError::Memory)?;
    let frame = TrapFrame::program(executable.entry, stack.pointer);
    run(Process::new(space), frame).map_err(StartError::Memory)
}

fn read_file(path: &[u8]) -> Result<&'static [u8], StartError> {
    let tree = root::tree().ok_or(StartError::NoFiles)?;
    let id = tree.resolve(root::Root::ROOT, path, true).map_err(StartError::Path)?;
    match tree.node(id).kind {
        Kind::File(data) => Ok(data),
        _ => Err(StartError::NotAFile),
    }
}

fn place(executable: Executable) -> Result<Executable, StartError> {
    match executable.placement {
        Placement::Fixed => Ok(executable),
        Placement::Anywhere(align) => {
            let bias = UserVa::new(BIAS).align_up(align).map_or(0, UserVa::raw);
            executable.placed(bias).ok_or(StartError::Memory(Errno::ENOMEM))
        }
    }
}

fn load(space: &AddressSpace, executable: &Executable, file: &[u8]) -> Result<(), Errno> {
    for segment in &executable.segments {
        space.map_zeroes(segment.range.len(), Place::Exactly(segment.range.start()), segment.prot)?;
        space.store(segment.content, &file[segment.file.clone()])?;
    }
    space.set_heap_start(executable.span().end());
    Ok(())
}

fn load_stack(space: &AddressSpace, stack: &StackImage) -> Result<(), Errno> {
    let bottom = UserVa::new(STACK_TOP.raw() - STACK_BYTES);
    space.map_zeroes(STACK_BYTES, Place::Exactly(bottom), Prot::READ | Prot::WRITE)?;
    space.store(stack.pointer, &stack.bytes)
}

fn auxiliary(executable: &Executable) -> [(u64, u64); 15] {
    [
        (AT_HWCAP, hwcap().bits()),
        (AT_HWCAP2, 0),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, 100),
        (AT_PHDR, executable.headers.map_or(0, UserVa::raw)),
        (AT_PHENT, Executable::HEADER_BYTES),
        (AT_PHNUM, executable.header_count),
        (AT_BASE, 0),
        (AT_FLAGS, 0),
        (AT_ENTRY, executable.entry.raw()),
        (AT_UID, 0),
        (AT_EUID, 0),
        (AT_GID, 0),
        (AT_EGID, 0),
        (AT_SECURE, 0),
    ]
}

fn hwcap() -> HwCap {
    let features = arch::cpu::features();
    let pairs = [
        (Features::FP, HwCap::FP | HwCap::ASIMD),
        (Features::ATOMICS, HwCap::ATOMICS),
        (Features::CRC32, HwCap::CRC32),
    ];
    pairs.into_iter().filter(|(feature, _)| features.contains(*feature)).map(|(_, cap)| cap).collect()
}

fn run(process: Process, frame: TrapFrame) -> Result<Arc<Process>, Errno> {
    let console = Arc::new(OpenFile::new(console::Console, OpenFlags::READ_WRITE));
    for _ in 0..3 {
        process.files.lock().insert(console.clone(), false, 0)?;
    }
    let process = Arc::new(process);
    let task = Arc::new(Task::new(process.id(), process.clone(), UserVa::new(0)));
    let thread = sched::new_user_thread(task, frame).map_err(|_| Errno::ENOMEM)?;
    process.add_thread(&thread);
    sched::make_ready(&thread);
    Ok(process)
}
