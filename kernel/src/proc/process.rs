//! The directories of processes. A process that has exited and was not waited for has empty files.

use crate::fs::generated::{EntryKind, FsEntry, Numbered, Text, decimal_name, find_decimal};
use crate::fs::root::{self, FileBody, FsNode, NodeRef};
use crate::fs::{self, OpenFile};
use crate::process::{Process, ProgramInfo, Task, signals, tree};
use crate::sched::{self, Thread};
use crate::vm::address_space::{AddressSpace, FileContent, PageCounts, VmaBacking};
use crate::vm::shared_memory::SharedMemory;
use abi::Errno;
use abi::auxv::AT_SYSINFO_EHDR;
use abi::file::OpenFlags;
use abi::process::{RLimit, ThreadName};
use addr::{AddrRange, PAGE_SIZE, UserVa};
use alloc::sync::Arc;
use core::fmt::{self, Write};
use program::{LinkTarget, MapLine, ProcessReport, RunState, Vma};
use zerocopy::IntoBytes;

pub static PROCESSES: Numbered = Numbered {
    entry: FsEntry::directory("", ENTRIES),
    next: |_, from| tree::with(|tree| tree.next(from)),
    name: decimal_name,
    find: find_decimal,
};

const ENTRIES: &[FsEntry] = &[
    FsEntry::text("auxv", auxiliary_vector).with_mode(0o400),
    FsEntry::text("cmdline", |numbers, out| program_memory(numbers, |info| info.arguments, out)),
    COMM,
    FsEntry::link("cwd", |numbers| node(running(numbers)?.fs.directory_node())),
    FsEntry::text("environ", |numbers, out| program_memory(numbers, |info| info.environment, out))
        .with_mode(0o400),
    FsEntry::link("exe", executable),
    FsEntry::numbered("fd", &DESCRIPTORS).with_mode(0o500),
    FsEntry::numbered("fdinfo", &DESCRIPTOR_STATES),
    FsEntry::text("limits", limits),
    MAPS,
    FsEntry::text("mountinfo", mount_information),
    FsEntry::text("mounts", mounts),
    FsEntry::new("pagemap", 0o400, EntryKind::Bytes(page_map)),
    FsEntry::link("root", |_| node(FsNode::ROOT)),
    STAT,
    STATM,
    STATUS,
    FsEntry::numbered("task", &THREADS),
];

const COMM: FsEntry = FsEntry::new("comm", 0o644, EntryKind::Setting(comm, set_comm));
const MAPS: FsEntry = FsEntry::text("maps", maps);
const STAT: FsEntry =
    FsEntry::text("stat", |numbers, out| with_report(numbers, |report| report.write_stat(out)));
const STATM: FsEntry =
    FsEntry::text("statm", |numbers, out| with_report(numbers, |report| report.write_statm(out)));
const STATUS: FsEntry =
    FsEntry::text("status", |numbers, out| with_report(numbers, |report| report.write_status(out)));

static THREADS: Numbered = Numbered {
    entry: FsEntry::directory("", &[COMM, MAPS, STAT, STATM, STATUS]),
    next: |numbers, from| {
        let process = find(numbers).ok()?;
        let Some(process) = process else { return (from <= numbers[0]).then_some(numbers[0]) };
        process.with_threads(|threads| {
            threads.iter().filter_map(|thread| Some(Task::of(thread)?.id())).filter(|&id| id >= from).min()
        })
    },
    name: decimal_name,
    find: find_decimal,
};

static DESCRIPTORS: Numbered = Numbered {
    entry: FsEntry::new("", 0, EntryKind::LinkWithMode(descriptor, descriptor_mode)),
    ..DESCRIPTOR_STATES_OF
};
static DESCRIPTOR_STATES: Numbered = DESCRIPTOR_STATES_OF;
const DESCRIPTOR_STATES_OF: Numbered = Numbered {
    entry: FsEntry::text("", descriptor_state),
    next: |numbers, from| {
        let next = running(numbers).ok()?.files.lock().next(from as usize)?;
        u32::try_from(next).ok()
    },
    name: decimal_name,
    find: find_decimal,
};

/// Returns the process; `None` if it has exited.
///
/// # Errors
/// `ESRCH` if its parent has waited for it.
fn find(numbers: &[u32]) -> Result<Option<Arc<Process>>, Errno> {
    tree::with(|tree| tree.find(numbers[0]))
}

/// # Errors
/// `ENOENT` if the process has exited.
fn running(numbers: &[u32]) -> Result<Arc<Process>, Errno> {
    find(numbers).ok().flatten().ok_or(Errno::ENOENT)
}

/// Returns the thread, by default the first one; `None` if all have exited.
///
/// # Errors
/// `ESRCH` if there is no thread with the id.
fn thread(process: &Process, id: Option<u32>) -> Result<Option<Arc<Thread>>, Errno> {
    let has_id = |thread: &&Arc<Thread>, id| Task::of(thread).is_some_and(|task| task.id() == id);
    process.with_threads(|threads| match id {
        Some(id) => threads.iter().find(|thread| has_id(thread, id)).cloned().map(Some).ok_or(Errno::ESRCH),
        None => Ok(threads.iter().find(|thread| has_id(thread, process.id())).or(threads.first()).cloned()),
    })
}

fn node(node: FsNode) -> Result<LinkTarget<FsNode>, Errno> {
    Ok(LinkTarget::Node(node))
}

/// Returns a link to a path.
pub fn path(text: fmt::Arguments<'_>) -> Result<LinkTarget<FsNode>, Errno> {
    let mut path = Text::default();
    fmt::write(&mut path, text)?;
    Ok(LinkTarget::Path(path.0))
}

/// `self`
pub fn own(_: &[u32]) -> Result<LinkTarget<FsNode>, Errno> {
    let thread = sched::try_current().ok_or(Errno::ENOENT)?;
    path(format_args!("{}", Task::of(&thread).ok_or(Errno::ENOENT)?.process().id()))
}

/// `thread-self`
pub fn own_thread(_: &[u32]) -> Result<LinkTarget<FsNode>, Errno> {
    let thread = sched::try_current().ok_or(Errno::ENOENT)?;
    let task = Task::of(&thread).ok_or(Errno::ENOENT)?;
    path(format_args!("{}/task/{}", task.process().id(), task.id()))
}

fn executable(numbers: &[u32]) -> Result<LinkTarget<FsNode>, Errno> {
    let process = running(numbers)?;
    let executable = process.program.lock().as_ref().map(|info| info.executable.node().clone());
    node(executable.ok_or(Errno::ENOENT)?)
}

fn descriptor(numbers: &[u32]) -> Result<LinkTarget<FsNode>, Errno> {
    let process = running(numbers)?;
    let files = process.files.lock();
    // By reference: the last reference must not be dropped here.
    let file = &files.get(numbers[1] as i32).map_err(|_| Errno::ENOENT)?.file;
    node(file.node().cloned().unwrap_or_else(|| FsNode::Open(Arc::downgrade(file))))
}

/// Returns the permissions of a link: those for which the file is open.
fn descriptor_mode(numbers: &[u32]) -> u32 {
    let flags = running(numbers).and_then(|process| {
        let files = process.files.lock();
        files.get(numbers[1] as i32).map(|entry| entry.file.flags())
    });
    match flags {
        Ok(flags) if flags.contains(OpenFlags::PATH) => 0o100,
        Ok(flags) if flags.contains(OpenFlags::WRITE_ONLY) => 0o300,
        Ok(flags) if flags.contains(OpenFlags::READ_WRITE) => 0o700,
        Ok(_) => 0o500,
        Err(_) => 0,
    }
}

fn descriptor_state(numbers: &[u32], out: &mut Text) -> Result<(), Errno> {
    let entry = running(numbers)?.files.lock().get(numbers[1] as i32).cloned();
    let entry = entry.map_err(|_| Errno::ENOENT)?;
    let file: &Arc<OpenFile> = &entry.file;
    let (stat, mut flags) = (file.stat()?, file.flags());
    flags.set(OpenFlags::CLOEXEC, entry.close_on_exec);
    let position = file.file().seek(0, abi::file::SEEK_CUR).unwrap_or(0);
    let (flags, mount) = (flags.bits(), stat.dev);
    writeln!(out, "pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{}", stat.ino)?;
    file.file().describe_state(Arc::strong_count(file) - 1, out)
}

fn comm(numbers: &[u32], out: &mut Text) -> Result<(), Errno> {
    with_report(numbers, |report| {
        // Unlike in `status`, without escapes.
        out.push(report.name).map_err(|_| fmt::Error)?;
        out.write_char('\n')
    })
}

fn set_comm(numbers: &[u32], bytes: &[u8]) -> Result<(), Errno> {
    let process = find(numbers)?.ok_or(Errno::ESRCH)?;
    let own = sched::try_current().ok_or(Errno::ESRCH)?;
    if !Task::of(&own).is_some_and(|task| Arc::ptr_eq(task.process(), &process)) {
        return Err(Errno::EINVAL);
    }
    let thread = thread(&process, numbers.get(1).copied())?.ok_or(Errno::ESRCH)?;
    let mut name = ThreadName::default();
    let len = bytes.len().min(name.len() - 1);
    name[..len].copy_from_slice(&bytes[..len]);
    Task::of(&thread).ok_or(Errno::ESRCH)?.set_name(name);
    Ok(())
}

type RunningProgram = (Arc<Process>, Arc<ProgramInfo>);

/// Returns the program; `None` if it has ended.
///
/// # Errors
/// As for [`find`].
fn program(numbers: &[u32]) -> Result<Option<RunningProgram>, Errno> {
    let Some(process) = find(numbers)? else { return Ok(None) };
    let info = process.program.lock().clone();
    Ok(info.map(|info| (process, info)))
}

fn auxiliary_vector(numbers: &[u32], out: &mut Text) -> Result<(), Errno> {
    let Some((_, info)) = program(numbers)? else { return Ok(()) };
    out.push(info.auxiliary.as_bytes())
}

/// Appends the memory of the program in a range, up to one that cannot be read.
fn program_memory(
    numbers: &[u32],
    range: fn(&ProgramInfo) -> AddrRange<UserVa>,
    out: &mut Text,
) -> Result<(), Errno> {
    let Some((process, info)) = program(numbers)? else { return Ok(()) };
    let Some(space) = process.space() else { return Ok(()) };
    let (mut rest, mut buffer) = (range(&info), [0; 256]);
    while !rest.is_empty() {
        let len = (rest.len() as usize).min(buffer.len());
        let count = space.inspect(rest.start(), &mut buffer[..len]);
        out.push(&buffer[..count])?;
        rest = AddrRange::new(rest.start() + count as u64, rest.end());
        if count < len {
            break;
        }
    }
    Ok(())
}

/// The object of a mapping, by its address: it may be gone.
enum MapObject {
    Anonymous,
    Archive(FileContent),
    Memory(*const SharedMemory),
    Buffer,
    Registers,
    HugePages,
}

fn maps(numbers: &[u32], out: &mut Text) -> Result<(), Errno> {
    let Some((process, info)) = program(numbers)? else { return Ok(()) };
    let Some(space) = process.space() else { return Ok(()) };
    let mut at = UserVa::new(0);
    while let Some((line, mapped, is_heap)) = space.with_vma_from(at, describe) {
        at = line.range.end();
        let mut name = Text::default();
        let file = match mapped {
            MapObject::Anonymous => {
                name.push(purpose(&line, &info, is_heap))?;
                (0, 0)
            }
            MapObject::Buffer => {
                name.push(b"/dmabuf:")?;
                (0, 0)
            }
            MapObject::Registers => {
                name.push(b"anon_inode:[vfio-device]")?;
                (0, 0)
            }
            MapObject::HugePages => {
                name.push(b"/anon_hugepage (deleted)")?;
                (0, 0)
            }
            MapObject::Archive(content) => file_of(&mut name, |body| match body {
                FileBody::Archive(other) => core::ptr::eq(*other, content),
                FileBody::Memory(_) => false,
            })?,
            MapObject::Memory(object) => file_of(&mut name, |body| match body {
                FileBody::Archive(_) => false,
                FileBody::Memory(other) => core::ptr::eq(Arc::as_ptr(other), object),
            })?,
        };
        MapLine { name: &name.0, file, ..line }.write_head(out)?;
        out.push(&name.0)?;
        out.push(b"\n")?;
        if sched::try_current().is_some_and(|thread| thread.is_interrupted()) {
            return Err(Errno::EINTR);
        }
        sched::yield_if_slice_ended();
    }
    Ok(())
}

/// Returns the parts of a line that the VMA has, and whether it is the heap.
fn describe(vma: &Vma<VmaBacking>, heap: AddrRange<UserVa>) -> (MapLine<'static>, MapObject, bool) {
    let (mapped, is_shared, offset) = match &vma.backing {
        VmaBacking::Anonymous { .. } => (MapObject::Anonymous, false, 0),
        VmaBacking::Huge(pages) => (MapObject::HugePages, pages.is_shared(), vma.offset),
        VmaBacking::File { content, is_shared } => (MapObject::Archive(content), *is_shared, vma.offset),
        VmaBacking::Memory(mapping) => (MapObject::Memory(mapping.object()), mapping.is_shared(), vma.offset),
        VmaBacking::Shared(..) => (MapObject::Buffer, true, vma.offset),
        VmaBacking::Registers(..) => (MapObject::Registers, true, vma.offset),
    };
    let line = MapLine { range: vma.range, prot: vma.prot, is_shared, offset, file: (0, 0), name: b"" };
    (line, mapped, vma.range.overlaps(&heap))
}

fn purpose(line: &MapLine<'_>, info: &ProgramInfo, is_heap: bool) -> &'static [u8] {
    let vdso = info.auxiliary.chunks(2).find(|entry| entry[0] == AT_SYSINFO_EHDR).map(|entry| entry[1]);
    match line.range {
        _ if is_heap => b"[heap]",
        range if range.contains(info.stack) => b"[stack]",
        range if vdso == Some(range.start().raw()) => b"[vdso]",
        _ => b"",
    }
}

/// Appends the path of the file with a content that `matches`, and returns its device and inode number.
/// Memory without a file is shared anonymous memory.
fn file_of(name: &mut Text, matches: impl Fn(&FileBody) -> bool) -> Result<(u64, u64), Errno> {
    let file = {
        let mut tree = root::lock()?;
        tree.find_content(matches).map(|id| NodeRef::new(&mut tree, FsNode::Tree(id)))
    };
    let Some(file) = file else {
        name.push(b"/dev/zero (deleted)")?;
        return Ok((1, 0));
    };
    fs::write_path(file.node(), name)?;
    let stat = fs::stat(file.node())?;
    Ok((stat.dev, stat.ino))
}

/// `pagemap`: 8 bytes for each page.
fn page_map(numbers: &[u32], offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    const PRESENT: u64 = 1 << 63;
    const FILE: u64 = 1 << 61;
    if !offset.is_multiple_of(8) || !to.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let space = find(numbers)?.and_then(|process| process.space());
    let Some(space) = space else { return Ok(0) };
    let mut done = 0;
    for entry in to.chunks_mut(8) {
        let at = (offset + done as u64) / 8 * PAGE_SIZE;
        if at >= program::USER_END {
            break;
        }
        let value = space.frame_at(UserVa::new(at)).map_or(0, |(frame, is_file)| {
            PRESENT | (frame.raw() / PAGE_SIZE) | if is_file { FILE } else { 0 }
        });
        entry.copy_from_slice(&value.to_le_bytes());
        done += 8;
    }
    Ok(done)
}

fn limits(numbers: &[u32], out: &mut Text) -> Result<(), Errno> {
    let Some(process) = find(numbers)? else { return Ok(()) };
    let limit = |resource: u64| process.limit(resource).unwrap_or(RLimit { current: 0, maximum: 0 });
    Ok(program::write_limits(out, limit)?)
}

/// `mountinfo`. A mount is known by its position in the list of mounts.
fn mount_information(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    let tree = root::lock()?;
    for (index, path) in tree.mount_paths().enumerate() {
        let generated = tree.generated().find(|fs| fs.path.as_bytes() == path);
        let (name, options, device) = match generated {
            _ if path == b"/" => ("rootfs", "ro", fs::ROOT_DEVICE),
            Some(fs) => (fs.name, "rw", fs.device),
            None => ("tmpfs", "rw", fs::MOUNT_DEVICE + index as u64),
        };
        // All are below the root, which is the first.
        write!(out, "{} {} {}:{} / ", index + 1, u32::from(index > 0), device >> 8, device & 0xff)?;
        out.push(&path)?;
        writeln!(out, " {options},noatime - {name} {name} {options}")?;
    }
    Ok(())
}

fn mounts(_: &[u32], out: &mut Text) -> Result<(), Errno> {
    let tree = root::lock()?;
    for path in tree.mount_paths() {
        let generated = tree.generated().find(|fs| fs.path.as_bytes() == path);
        let (name, options) = match generated {
            _ if path == b"/" => ("rootfs", "ro"),
            Some(fs) => (fs.name, "rw"),
            None => ("tmpfs", "rw"),
        };
        write!(out, "{name} ")?;
        out.push(&path)?;
        writeln!(out, " {name} {options},noatime 0 0")?;
    }
    Ok(())
}

fn page_counts(space: Option<&AddressSpace>) -> PageCounts {
    let (mut counts, mut at) = (PageCounts::default(), UserVa::new(0));
    while let Some(end) = space.and_then(|space| space.count_pages(at, &mut counts)) {
        at = end;
        sched::yield_if_slice_ended();
    }
    counts
}

/// Calls `write` with the report of a process or thread.
///
/// # Errors
/// `ESRCH`, `ENOMEM`.
fn with_report(numbers: &[u32], write: impl FnOnce(&ProcessReport<'_>) -> fmt::Result) -> Result<(), Errno> {
    let id = numbers[0];
    let (found, exit, parent, group, session) = tree::with(|tree| {
        Ok::<_, Errno>((
            tree.find(id)?,
            tree.exit_of(id),
            tree.parent(id),
            tree.group(id)?,
            tree.session(id)?,
        ))
    })?;
    let none = AddrRange::new(UserVa::new(0), UserVa::new(0));
    let mut report = ProcessReport {
        id,
        process: id,
        name: b"",
        state: RunState::Zombie,
        parent,
        group,
        session,
        threads: 1,
        cpu_time: exit.map_or(0, |exit| exit.cpu_time),
        started: exit.map_or(0, |exit| exit.started),
        total_pages: 0,
        resident_pages: 0,
        shared_pages: 0,
        locked_pages: 0,
        data_pages: 0,
        text_pages: 0,
        stack: UserVa::new(0),
        arguments: none,
        environment: none,
        mode_mask: 0o22,
        descriptors: 0,
        signals: [0; 5],
        cpus: sched::running_cpus(),
    };
    let Some(process) = found else {
        let name = exit.map_or(ThreadName::default(), |exit| exit.name);
        return Ok(write(&ProcessReport { name: trimmed(&name), ..report })?);
    };
    let thread = thread(&process, numbers.get(1).copied())?;
    let task = thread.as_deref().and_then(Task::of);
    let name = task.map_or_else(|| process.last_name(), Task::name);
    let counts = page_counts(process.space().as_deref());
    if let Some(info) = process.program.lock().as_ref() {
        (report.stack, report.arguments, report.environment) = (info.stack, info.arguments, info.environment);
    }
    let is_runnable = thread.as_ref().is_some_and(|thread| sched::is_runnable(thread));
    let report = ProcessReport {
        id: numbers.get(1).copied().unwrap_or(id),
        name: trimmed(&name),
        state: match () {
            () if process.is_stopped() => RunState::Stopped,
            () if is_runnable => RunState::Running,
            () => RunState::Sleeping,
        },
        threads: process.with_threads(|threads| threads.len()),
        cpu_time: match numbers.get(1) {
            Some(&id) => process.cpu_time_of(id).ok_or(Errno::ESRCH)?,
            None => process.cpu_time(),
        },
        started: process.started,
        total_pages: counts.total,
        resident_pages: counts.resident,
        shared_pages: counts.shared,
        locked_pages: counts.locked,
        data_pages: counts.data,
        text_pages: counts.text,
        mode_mask: process.fs.mode_mask(),
        descriptors: process.files.lock().capacity().next_power_of_two().max(64),
        signals: task.map_or([0; 5], |task| signals::sets(task).map(|set| set.bits())),
        ..report
    };
    Ok(write(&report)?)
}

fn trimmed(name: &ThreadName) -> &[u8] {
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}
