//! The ELF loader: from a file of the initramfs to a process that is ready to run.

use super::process::Process;
use super::random;
use super::return_to_user::enter_user;
use super::signals::{TRAMPOLINE, TRAMPOLINE_CODE};
use super::task::Task;
use crate::fs::{self, OpenFile, root};
use crate::sched;
use crate::vm::address_space::{AddressSpace, MmapPlacement};
use abi::Errno;
use abi::auxv::*;
use abi::memory::Prot;
use addr::{Address, PAGE_SIZE, UserVa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::CpuFeatures;
use arch::exception::UserFrame;
use core::fmt;
use program::{
    ArgumentListTooLong, Executable, ExecutableError, LoadAddress, NodeKind, StackImage, StackRequest,
};

/// The size of the first stack, which is populated on demand.
pub const STACK_BYTES: u64 = 8 << 20;
/// The end of the first stack: a page below the end of the address space.
const STACK_TOP: UserVa = UserVa::new(TRAMPOLINE.raw() - PAGE_SIZE);
/// The load address of position-independent executables: two thirds of a 47-bit address space, as in Linux.
const BIAS: u64 = 0x5555_5555_0000;

/// Why a program is not started.
#[derive(Debug)]
pub enum LaunchError {
    /// There is no initramfs.
    NoFiles,
    /// Its path does not resolve.
    Path(Errno),
    /// It is a directory or a device.
    NotAFile,
    /// Its mode has no execute permission.
    NotExecutable,
    /// It is not an executable for this machine.
    Executable(ExecutableError),
    /// Its segments cannot be mapped or loaded.
    Memory(Errno),
    /// Its arguments exceed the limit.
    Arguments(ArgumentListTooLong),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles => write!(f, "there is no initramfs"),
            Self::Path(error) => write!(f, "{error}"),
            Self::NotAFile => write!(f, "not a regular file"),
            Self::NotExecutable => write!(f, "no execute permission"),
            Self::Executable(error) => write!(f, "{error}"),
            Self::Memory(error) => write!(f, "cannot be loaded: {error}"),
            Self::Arguments(ArgumentListTooLong(bytes)) => {
                write!(f, "{bytes} bytes of arguments are too long")
            }
        }
    }
}

/// A request to start a program.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// Its path in the initramfs.
    pub path: &'a str,
    /// Its arguments, without its path.
    pub arguments: &'a [&'a str],
    pub environment: &'a [&'a str],
    /// Its open files, from file descriptor 0 on.
    pub files: &'a [Arc<OpenFile>],
}

/// Starts a program.
///
/// # Errors
/// [`LaunchError`]; all resources are released.
pub fn start(launch: &Launch<'_>) -> Result<Arc<Process>, LaunchError> {
    let file = read_file(launch.path.as_bytes())?;
    let executable = assign_load_address(Executable::parse(file).map_err(LaunchError::Executable)?)?;
    let space = AddressSpace::new().ok_or(LaunchError::Memory(Errno::ENOMEM))?;
    load(&space, &executable, file).map_err(LaunchError::Memory)?;
    let stack = first_stack(launch, &executable).map_err(LaunchError::Arguments)?;
    load_stack(&space, &stack).map_err(LaunchError::Memory)?;
    let frame = UserFrame::program(executable.entry, stack.pointer);
    start_process(new_process(space), launch.files, frame).map_err(LaunchError::Memory)
}

fn first_stack(launch: &Launch<'_>, executable: &Executable) -> Result<StackImage, ArgumentListTooLong> {
    let arguments: Vec<&[u8]> =
        [launch.path].iter().chain(launch.arguments).map(|text| text.as_bytes()).collect();
    let environment: Vec<&[u8]> = launch.environment.iter().map(|text| text.as_bytes()).collect();
    StackImage::build(&StackRequest {
        top: STACK_TOP,
        path: launch.path.as_bytes(),
        arguments: &arguments,
        environment: &environment,
        random: random::bytes(),
        auxiliary: &auxiliary_vector(executable),
    })
}

fn read_file(path: &[u8]) -> Result<&'static [u8], LaunchError> {
    let tree = root::tree().ok_or(LaunchError::NoFiles)?;
    let id = tree.resolve(root::Root::ROOT, path, true).map_err(LaunchError::Path)?;
    let node = tree.node(id);
    match node.kind {
        NodeKind::File(_) if node.mode & 0o111 == 0 => Err(LaunchError::NotExecutable),
        NodeKind::File(data) => Ok(data),
        _ => Err(LaunchError::NotAFile),
    }
}

fn assign_load_address(executable: Executable) -> Result<Executable, LaunchError> {
    match executable.load_address {
        LoadAddress::Fixed => Ok(executable),
        LoadAddress::Relocatable(align) => {
            let bias = UserVa::new(BIAS).align_up(align).map_or(0, UserVa::raw);
            executable.relocated(bias).ok_or(LaunchError::Memory(Errno::ENOMEM))
        }
    }
}

fn load(space: &AddressSpace, executable: &Executable, file: &[u8]) -> Result<(), Errno> {
    for segment in &executable.segments {
        space.map_anonymous(
            segment.range.len(),
            MmapPlacement::FixedNoReplace(segment.range.start()),
            segment.prot,
        )?;
        space.load(segment.content, &file[segment.file.clone()])?;
    }
    space.set_heap_start(executable.span().end());
    Ok(())
}

fn load_stack(space: &AddressSpace, stack: &StackImage) -> Result<(), Errno> {
    space.map_anonymous(PAGE_SIZE, MmapPlacement::FixedNoReplace(TRAMPOLINE), Prot::READ | Prot::EXEC)?;
    space.load(TRAMPOLINE, &TRAMPOLINE_CODE)?;
    let bottom = UserVa::new(STACK_TOP.raw() - STACK_BYTES);
    space.map_anonymous(STACK_BYTES, MmapPlacement::FixedNoReplace(bottom), Prot::READ | Prot::WRITE)?;
    space.load(stack.pointer, &stack.bytes)
}

fn auxiliary_vector(executable: &Executable) -> [(u64, u64); 15] {
    [
        (AT_HWCAP, hwcap().bits()),
        (AT_HWCAP2, hwcap2().bits()),
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
        (CpuFeatures::FP, HwCap::FP | HwCap::ASIMD),
        (CpuFeatures::ATOMICS, HwCap::ATOMICS),
        (CpuFeatures::CRC32, HwCap::CRC32),
    ];
    pairs.into_iter().filter(|(feature, _)| features.contains(*feature)).map(|(_, cap)| cap).collect()
}

fn hwcap2() -> HwCap2 {
    if arch::cpu::features().contains(CpuFeatures::MOPS) { HwCap2::MOPS } else { HwCap2::empty() }
}

/// Not inlined: a `Process` is too large for the stack frame of the caller, whose error paths would drop it.
#[inline(never)]
fn new_process(space: AddressSpace) -> Arc<Process> {
    Arc::new(Process::new(space))
}

fn start_process(
    process: Arc<Process>,
    files: &[Arc<OpenFile>],
    frame: UserFrame,
) -> Result<Arc<Process>, Errno> {
    for file in files {
        fs::insert(&process.files, file.clone(), false, 0)?;
    }
    process.register();
    let task = Arc::new(Task::new(process.id(), process.clone(), UserVa::new(0)));
    // SAFETY: a frame of a program, which this `enter` takes.
    let thread = unsafe { sched::new_user_thread(task, frame, enter_user) }.map_err(|_| Errno::ENOMEM)?;
    if !process.add_thread(&thread) {
        sched::discard(thread);
        return Err(Errno::ENOMEM);
    }
    sched::make_ready(&thread);
    Ok(process)
}
