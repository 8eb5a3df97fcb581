//! The ELF loader: from a file of the initramfs to a process that is ready to run.

use super::exec::ExecRequest;
use super::fork::{new_thread, run_first_thread};
use super::futex::Futexes;
use super::process::{Process, ProgramInfo};
use super::random;
use super::task::Task;
use super::tree;
use super::vdso;
use crate::fs::root::{self, FileBody, FsNode, NodeRef};
use crate::fs::{self, OpenFile};
use crate::memory::heap;
use crate::vm::address_space::{AddressSpace, FileContent, MmapPlacement};
use abi::Errno;
use abi::auxv::*;
use abi::memory::Prot;
use abi::process::{ThreadName, thread_name};
use abi::signal::SIGNAL_STACK_BYTES;
use addr::{Address, PAGE_SIZE, UserVa};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::CpuFeatures;
use arch::exception::UserFrame;
use core::fmt;
use program::{
    Alignment, Executable, ExecutableError, LoadAddress, LoadSegment, NodeKind, StackImage, StackImageError,
    StackRequest, script_interpreter,
};

/// The size of the first stack, which is populated on demand.
pub const STACK_BYTES: u64 = 8 << 20;
/// The end of the first stack: a page below the end of the address space.
const STACK_TOP: UserVa = UserVa::new(vdso::ADDRESS.raw() - PAGE_SIZE);
/// The load address of position-independent executables: two thirds of a 47-bit address space, as in Linux.
const BIAS: u64 = 0x5555_5555_0000;

/// Why a program is not started.
#[derive(Debug)]
pub enum LaunchError {
    /// There is no initramfs.
    NoFiles,
    /// Its path does not resolve.
    Path(Errno),
    /// It is a directory or a device, or not in the archive.
    NotAFile,
    /// Its mode has no execute permission.
    NotExecutable,
    /// It is not an executable for this machine.
    Executable(ExecutableError),
    /// Its segments cannot be mapped or loaded.
    Memory(Errno),
    /// Its arguments exceed the limit.
    Arguments(usize),
    /// Its dynamic linker, with this path, is not loaded.
    Interpreter(String, Box<LaunchError>),
}

impl LaunchError {
    /// Returns the errno of `execve`.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoFiles => Errno::ENOENT,
            Self::Path(error) | Self::Memory(error) => *error,
            Self::NotAFile | Self::NotExecutable => Errno::EACCES,
            Self::Executable(_) => Errno::ENOEXEC,
            Self::Arguments(_) => Errno::E2BIG,
            Self::Interpreter(_, error) => match **error {
                Self::Executable(_) => Errno::ELIBBAD,
                ref error => error.errno(),
            },
        }
    }
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
            Self::Arguments(bytes) => {
                write!(f, "{bytes} bytes of arguments are too long")
            }
            Self::Interpreter(path, error) => write!(f, "dynamic linker {path}: {error}"),
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

/// The parts of a process image.
struct ProcessImage {
    executable: Executable,
    /// The dynamic linker, which loads the rest of the program.
    interpreter: Option<Executable>,
}

impl ProcessImage {
    fn entry(&self) -> UserVa {
        self.interpreter.as_ref().unwrap_or(&self.executable).entry
    }
}

/// A program that is ready to run.
pub struct LoadedProgram {
    pub space: Arc<AddressSpace>,
    /// The registers of its first thread.
    pub frame: UserFrame,
    pub info: Arc<ProgramInfo>,
    /// The name of its first thread.
    pub name: ThreadName,
}

/// Starts a program in a new process without a parent.
///
/// # Errors
/// [`LaunchError`]; all resources are released.
pub fn start(launch: &Launch<'_>) -> Result<Arc<Process>, LaunchError> {
    let arguments: Vec<&[u8]> =
        [launch.path].iter().chain(launch.arguments).map(|text| text.as_bytes()).collect();
    let environment: Vec<&[u8]> = launch.environment.iter().map(|text| text.as_bytes()).collect();
    let program = load_program(&ExecRequest {
        path: launch.path.as_bytes(),
        arguments: &arguments,
        environment: &environment,
    })?;
    start_process(program, launch.files).map_err(LaunchError::Memory)
}

/// The maximum number of scripts whose interpreter is another script.
const SCRIPTS_MAX: usize = 5;

/// Loads a program, or the interpreter of a script, into a new address space.
///
/// # Errors
/// [`LaunchError`].
pub fn load_program(request: &ExecRequest<'_>) -> Result<LoadedProgram, LaunchError> {
    let (mut file, mut node) = read_file(request.path)?;
    let (mut path, mut arguments) = (request.path, Cow::Borrowed(request.arguments));
    let mut scripts = 0;
    while let Some(interpreter) = script_interpreter(file) {
        scripts += 1;
        if scripts > SCRIPTS_MAX {
            return Err(LaunchError::Path(Errno::ELOOP));
        }
        let first = [Some(interpreter.path), interpreter.argument, Some(path)].into_iter().flatten();
        let mut all = Vec::new();
        all.try_reserve_exact(arguments.len() + 2).map_err(|_| LaunchError::Memory(Errno::ENOMEM))?;
        all.extend(first.chain(arguments.iter().skip(1).copied()));
        arguments = Cow::Owned(all);
        path = interpreter.path;
        (file, node) = read_file(path)?;
    }
    load_executable(file, node, &ExecRequest { arguments: &arguments, ..*request })
}

fn load_executable(
    file: FileContent,
    node: NodeRef,
    request: &ExecRequest<'_>,
) -> Result<LoadedProgram, LaunchError> {
    let executable = Executable::parse(file).map_err(LaunchError::Executable)?;
    let space = AddressSpace::new().and_then(heap::try_arc).ok_or(LaunchError::Memory(Errno::ENOMEM))?;
    // First: the dynamic linker takes the highest free addresses.
    map_stack(&space).map_err(LaunchError::Memory)?;
    let interpreter = load_interpreter(&space, &executable, file)?;
    let executable = load(&space, executable, file, Some(BIAS))?;
    space.set_heap_start(executable.span().end());
    let image = ProcessImage { executable, interpreter };
    let stack = first_stack(request, &image).map_err(|error| match error {
        StackImageError::TooLong(bytes) => LaunchError::Arguments(bytes),
        StackImageError::OutOfMemory => LaunchError::Memory(Errno::ENOMEM),
    })?;
    space.load(stack.pointer, &stack.bytes).map_err(LaunchError::Memory)?;
    let frame = UserFrame::program(image.entry(), stack.pointer);
    let info = ProgramInfo {
        auxiliary: stack.auxiliary,
        arguments: stack.arguments,
        environment: stack.environment,
        stack: stack.pointer,
        executable: node,
    };
    let info = heap::try_arc(info).ok_or(LaunchError::Memory(Errno::ENOMEM))?;
    Ok(LoadedProgram { space, frame, info, name: thread_name(request.path) })
}

/// Loads the dynamic linker of `executable`, if it has one.
fn load_interpreter(
    space: &AddressSpace,
    executable: &Executable,
    file: &[u8],
) -> Result<Option<Executable>, LaunchError> {
    let Some(path) = &executable.interpreter else { return Ok(None) };
    let path = &file[path.clone()];
    let loaded = read_file(path).and_then(|(file, _)| {
        let plan = Executable::parse(file).map_err(LaunchError::Executable)?;
        load(space, plan, file, None)
    });
    let error = |error| LaunchError::Interpreter(String::from_utf8_lossy(path).into_owned(), Box::new(error));
    loaded.map(Some).map_err(error)
}

fn first_stack(request: &ExecRequest<'_>, image: &ProcessImage) -> Result<StackImage, StackImageError> {
    StackImage::build(&StackRequest {
        top: STACK_TOP,
        path: request.path,
        arguments: request.arguments,
        environment: request.environment,
        random: random::bytes(),
        auxiliary: &auxiliary_vector(image),
    })
}

fn read_file(path: &[u8]) -> Result<(FileContent, NodeRef), LaunchError> {
    let mut tree = root::lock().map_err(|_| LaunchError::NoFiles)?;
    let end = tree.resolve(&FsNode::ROOT, path, true).map_err(LaunchError::Path)?;
    let id = end.node.ok_or(LaunchError::Path(Errno::ENOENT))?.in_tree();
    let id = id.map_err(|_| LaunchError::NotAFile)?;
    let node = tree.node(id);
    match &node.kind {
        NodeKind::File(_) if !is_executable(node.mode) => Err(LaunchError::NotExecutable),
        NodeKind::File(FileBody::Archive(data)) => Ok((*data, NodeRef::new(&mut tree, FsNode::Tree(id)))),
        _ => Err(LaunchError::NotAFile),
    }
}

/// Whether root may execute a file with this mode.
fn is_executable(mode: u32) -> bool {
    mode & 0o111 != 0
}

/// Maps the segments of `executable`. A position-independent one is loaded at `bias`, or at the highest free
/// addresses.
fn load(
    space: &AddressSpace,
    executable: Executable,
    file: FileContent,
    bias: Option<u64>,
) -> Result<Executable, LaunchError> {
    let executable = match executable.load_address {
        LoadAddress::Fixed => executable,
        LoadAddress::Relocatable(align) => {
            let bias = match bias {
                Some(bias) => UserVa::new(bias).align_up(align),
                None => highest_bias(space, &executable, align),
            };
            let relocated = bias.and_then(|bias| executable.relocated(bias.raw()));
            relocated.ok_or(LaunchError::Memory(Errno::ENOMEM))?
        }
    };
    executable
        .segments
        .iter()
        .try_for_each(|segment| load_segment(space, segment, file))
        .map_err(LaunchError::Memory)?;
    Ok(executable)
}

/// The highest load bias at which `executable` fits.
fn highest_bias(space: &AddressSpace, executable: &Executable, align: u64) -> Option<UserVa> {
    let span = executable.span();
    let start = space.find_unmapped(span.len(), Alignment::like_offset(align, span.start().raw()))?;
    Some(UserVa::new(start.raw().checked_sub(span.start().raw())?))
}

fn load_segment(space: &AddressSpace, segment: &LoadSegment, file: FileContent) -> Result<(), Errno> {
    let (pages, zero_pages) = (segment.file_pages, segment.zero_pages);
    if !pages.is_empty() {
        let range = (segment.file_offset, pages.len());
        space.map_file(file, range, MmapPlacement::Fixed(pages.start()), (segment.prot, false))?;
    }
    if !zero_pages.is_empty() {
        space.map_anonymous(zero_pages.len(), MmapPlacement::Fixed(zero_pages.start()), segment.prot)?;
    }
    // Less than a page.
    static ZEROES: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    space.load(segment.zeroed.start(), &ZEROES[..segment.zeroed.len() as usize])
}

/// Maps the first stack, and above it the vDSO.
fn map_stack(space: &AddressSpace) -> Result<(), Errno> {
    space.map_anonymous(PAGE_SIZE, MmapPlacement::FixedNoReplace(vdso::ADDRESS), Prot::READ | Prot::EXEC)?;
    space.load(vdso::ADDRESS, &vdso::vdso().image)?;
    let bottom = UserVa::new(STACK_TOP.raw() - STACK_BYTES);
    // Its end is inside a block, so that page faults map pages there, and blocks only for a deep stack.
    space.map_anonymous(STACK_BYTES, MmapPlacement::FixedNoReplace(bottom), Prot::READ | Prot::WRITE)?;
    Ok(())
}

fn auxiliary_vector(image: &ProcessImage) -> [(u64, u64); 17] {
    let ProcessImage { executable, interpreter } = image;
    let base = interpreter.as_ref().map_or(0, |interpreter| interpreter.span().start().raw());
    [
        (AT_SYSINFO_EHDR, vdso::ADDRESS.raw()),
        (AT_HWCAP, hwcap().bits()),
        (AT_HWCAP2, hwcap2().bits()),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, 100),
        (AT_PHDR, executable.headers.map_or(0, UserVa::raw)),
        (AT_PHENT, Executable::HEADER_BYTES),
        (AT_PHNUM, executable.header_count),
        (AT_BASE, base),
        (AT_FLAGS, 0),
        (AT_ENTRY, executable.entry.raw()),
        (AT_UID, 0),
        (AT_EUID, 0),
        (AT_GID, 0),
        (AT_EGID, 0),
        (AT_SECURE, 0),
        (AT_MINSIGSTKSZ, SIGNAL_STACK_BYTES),
    ]
}

/// Returns the features that `AT_HWCAP` reports.
pub fn hwcap() -> HwCap {
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

fn start_process(program: LoadedProgram, files: &[Arc<OpenFile>]) -> Result<Arc<Process>, Errno> {
    let process = Process::new(program.space.clone())?;
    *process.program.lock() = Some(program.info);
    for file in files {
        fs::insert(&process.files, file.clone(), false, 0)?;
    }
    let space = (program.space, Futexes::new()?);
    let task = Task::new(process.id(), process.clone(), space, UserVa::new(0));
    task.set_name(program.name);
    let thread = new_thread(task, program.frame)?;
    run_first_thread(&process, thread, tree::add_root(&process))?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in Linux for root: the permission of any class is sufficient.
    #[test]
    fn file_is_executable_with_the_permission_of_any_class() {
        for mode in [0o100, 0o010, 0o001, 0o755] {
            assert!(is_executable(0o10_0000 | mode), "{mode:o}");
        }
        for mode in [0, 0o666, 0o7666] {
            assert!(!is_executable(0o10_0000 | mode), "{mode:o}");
        }
    }
}
