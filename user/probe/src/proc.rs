//! `/proc` and `/sys`: the files of processes, of the machine, and of devices.

use std::collections::BTreeSet;
use std::env;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::epolls::{eventfd, owned};
use crate::iterations::iterations;
use crate::processes::{fork, wait};
use crate::result::{Failure, ProbeResult, ensure, expect_error};

/// Succeeds if both are equal.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> ProbeResult {
    ensure(found == expected, || format!("{what}: {found:?}, expected {expected:?}"))
}

/// The value of a line `NAME:<white space>VALUE`.
fn field(path: &str, name: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.ok_or_else(|| Failure::from(&*format!("no {name} in {path}: {text}")))?.trim().to_string())
}

/// The fields of a `stat` from the third on, by their numbers in proc(5).
fn stat(path: &str) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path)?;
    let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
    Ok(["", "", ""].into_iter().chain(fields.split_whitespace()).map(String::from).collect())
}

fn names(path: impl AsRef<Path>) -> io::Result<BTreeSet<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The files of the own process and of its threads describe it.
pub fn own_process(_: &[String]) -> ProbeResult {
    let id = process::id().to_string();
    equal("self", fs::read_link("/proc/self")?, PathBuf::from(&id))?;
    equal("exe", fs::read_link("/proc/self/exe")?, env::current_exe()?)?;
    equal("exe", File::open("/proc/self/exe")?.metadata()?.ino(), fs::metadata(env::current_exe()?)?.ino())?;
    let arguments: Vec<u8> = env::args().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    equal("cmdline", fs::read("/proc/self/cmdline")?, arguments)?;
    equal("cwd", fs::read_link("/proc/self/cwd")?, env::current_dir()?)?;
    equal("root", fs::read_link("/proc/self/root")?, PathBuf::from("/"))?;

    equal("Pid", field("/proc/self/status", "Pid")?, id.clone())?;
    equal("Tgid", field("/proc/thread-self/status", "Tgid")?, id.clone())?;
    let stat = stat("/proc/self/stat")?;
    equal("fields of stat", stat.len(), 53)?;
    // SAFETY: no pointer.
    let parent = unsafe { libc::getppid() };
    equal("parent", stat[4].clone(), parent.to_string())?;
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: Vec<u64> = statm.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure(pages.len() == 7 && pages[0] >= pages[1] && pages[1] > 0, || format!("statm {statm}"))?;

    let vector = fs::read("/proc/self/auxv")?;
    let words: Vec<u64> =
        vector.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    let entry = words.chunks(2).find(|entry| entry[0] == libc::AT_PAGESZ);
    equal("AT_PAGESZ in auxv", entry.map(|entry| entry[1]), Some(4096))
}

/// The directory of threads lists them while they exist, with their names.
pub fn threads(_: &[String]) -> ProbeResult {
    let (to_thread, from_main) = mpsc::channel::<()>();
    let (to_main, from_thread) = mpsc::channel();
    let before = names("/proc/self/task")?;
    let thread = thread::spawn(move || {
        // SAFETY: no pointer.
        let _ = to_main.send(unsafe { libc::gettid() });
        let _ = from_main.recv();
    });
    let id = from_thread.recv().map_err(|_| "no thread")?.to_string();
    let during = names("/proc/self/task")?;
    ensure(!before.contains(&id) && during.contains(&id), || format!("{id}: {before:?} {during:?}"))?;
    let directory = format!("/proc/self/task/{id}");
    fs::write(format!("{directory}/comm"), "renamed")?;
    equal("comm", fs::read_to_string(format!("{directory}/comm"))?, "renamed\n".into())?;
    equal("Name", field(&format!("{directory}/status"), "Name")?, "renamed".into())?;
    let state = stat(&format!("{directory}/stat"))?[3].clone();
    ensure(["S", "R"].contains(&&*state), || format!("state {state}"))?;
    let file = File::open(format!("{directory}/stat"))?;
    drop(to_thread);
    thread.join().map_err(|_| "the thread")?;
    // The thread may be released after the join.
    while Path::new(&directory).exists() {
        thread::yield_now();
    }
    expect_error("stat of an exited thread", file.read_at(&mut [0; 64], 0), libc::ESRCH)
}

/// The links of descriptors have the texts of the files; they are opened again.
pub fn descriptors(_: &[String]) -> ProbeResult {
    let link = |file: &dyn AsRawFd| format!("/proc/self/fd/{}", file.as_raw_fd());
    let text = |file: &dyn AsRawFd| fs::read_link(link(file)).map(|path| path.to_string_lossy().into_owned());
    let path = format!("/dev/shm/probe-proc-{}", process::id());
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let result = (|| {
        file.write_all(b"0123456789")?;
        equal("file", text(&file)?, path.clone())?;
        let mut again = String::new();
        File::open(link(&file))?.read_to_string(&mut again)?;
        equal("opened again, with a position of its own", again, "0123456789".into())?;
        let information = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
        equal("pos", field(&information, "pos")?, "10".into())?;
        let flags = u32::from_str_radix(&field(&information, "flags")?, 8).map_err(|_| "flags")?;
        ensure(flags & 0o2000003 == 0o2000002, || format!("flags {flags:o}"))?;
        equal("ino", field(&information, "ino")?, file.metadata()?.ino().to_string())
    })();
    fs::remove_file(&path)?;
    result?;
    equal("removed file", text(&file)?, format!("{path} (deleted)"))?;
    equal("removed file opened again", File::open(link(&file))?.metadata()?.nlink(), 0)?;
    let name = CString::new("probe name").unwrap_or_default();
    // SAFETY: a valid string.
    let memory = owned(unsafe { libc::memfd_create(name.as_ptr(), 0) }.into())?;
    equal("memfd", text(&memory)?, "/memfd:probe name (deleted)".into())?;

    let (mut reader, writer) = io::pipe()?;
    let mode = |file: &dyn AsRawFd| fs::symlink_metadata(link(file)).map(|found| found.mode() & 0o777);
    equal("modes", (mode(&reader)?, mode(&writer)?, mode(&file)?), (0o500, 0o300, 0o700))?;
    let inode = File::from(OwnedFd::from(reader.try_clone()?)).metadata()?.ino();
    equal("pipe", text(&reader)?, format!("pipe:[{inode}]"))?;
    let mut second = OpenOptions::new().write(true).open(link(&writer))?;
    drop(writer);
    second.write_all(b"through the second end")?;
    let mut bytes = [0; 7];
    File::open(link(&reader))?.read_exact(&mut bytes)?;
    equal("pipe opened again", &bytes, b"through")?;
    drop(second);
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    equal("rest after the close of the last end", &*rest, " the second end")?;

    let (socket, _peer) = UnixStream::pair()?;
    ensure(text(&socket)?.starts_with("socket:["), || text(&socket).unwrap_or_default())?;
    expect_error("socket opened again", File::open(link(&socket)), libc::ENXIO)?;
    let event = eventfd(5, 0)?;
    equal("eventfd", text(&event)?, "anon_inode:[eventfd]".into())?;
    expect_error("eventfd opened again", File::open(link(&event)), libc::ENXIO)?;
    let information = format!("/proc/self/fdinfo/{}", event.as_raw_fd());
    equal("eventfd-count", field(&information, "eventfd-count")?, "5".into())?;
    let slot = File::open("/dev/null")?;
    let own = File::open(format!("/proc/self/fdinfo/{}", slot.as_raw_fd()))?;
    // SAFETY: both descriptors are open, and the second is replaced.
    let replaced = unsafe { libc::dup2(own.as_raw_fd(), slot.as_raw_fd()) };
    ensure(replaced == slot.as_raw_fd(), || format!("dup2 returned {replaced}"))?;
    let mut report = String::new();
    (&own).read_to_string(&mut report)?;
    ensure(report.starts_with("pos:\t0\n"), || format!("the report on its own file: {report}"))?;
    let listed = names("/proc/self/fd")?;
    ensure(listed.contains(&event.as_raw_fd().to_string()), || format!("{listed:?}"))?;
    let closed = link(&event);
    drop(event);
    expect_error("closed descriptor", fs::read_link(&closed), libc::ENOENT)?;
    equal("/dev/fd", names("/dev/fd")?.contains("0"), true)
}

static IN_PROGRAM: u64 = 1;

/// Each mapping has a line with its protection, its object and its name.
pub fn maps(_: &[String]) -> ProbeResult {
    let name = CString::new("mapped").unwrap_or_default();
    // SAFETY: a valid string.
    let memory = File::from(owned(unsafe { libc::memfd_create(name.as_ptr(), 0) }.into())?);
    memory.set_len(3 * 4096)?;
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, memory.as_raw_fd(), 4096)
    };
    ensure(at != libc::MAP_FAILED, || "mmap".into())?;
    let line = |address: usize| {
        let text = fs::read_to_string("/proc/self/maps")?;
        let contains = |line: &&str| {
            let parse = |text| usize::from_str_radix(text, 16).unwrap_or(0);
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.is_some_and(|(start, end)| (parse(start)..parse(end)).contains(&address))
        };
        Ok::<_, io::Error>(text.lines().find(contains).unwrap_or_default().to_string())
    };
    let mapped = line(at.addr())?;
    let inode = memory.metadata()?.ino();
    let expected = format!("{:08x}-{:08x} r--s 00001000 ", at.addr(), at.addr() + 8192);
    ensure(mapped.starts_with(&expected), || format!("{mapped}, expected {expected}"))?;
    ensure(mapped.contains(&format!(" {inode} ")), || mapped.clone())?;
    equal("name", mapped.get(73..), Some("/memfd:mapped (deleted)"))?;
    // SAFETY: mapped above.
    unsafe { libc::munmap(at, 8192) };
    ensure(line(at.addr())?.is_empty(), || "the line of an unmapped range".into())?;
    let function = line(maps as *const () as usize)?;
    ensure(function.contains(" r-xp "), || function.clone())?;
    let program = env::current_exe()?.to_string_lossy().into_owned();
    ensure(function.ends_with(&program), || function.clone())?;
    let data = line((&raw const IN_PROGRAM).addr())?;
    ensure(data.ends_with(&program), || data.clone())?;
    let entry = crate::raw::auxiliary(libc::AT_EXECFN);
    let stack = line(entry as usize)?;
    ensure(stack.ends_with("[stack]"), || stack.clone())
}

/// A text is read in pieces, again from its start, and not written.
pub fn texts(_: &[String]) -> ProbeResult {
    let mut file = File::open("/proc/version")?;
    let mut pieces = Vec::new();
    let mut byte = [0];
    while file.read(&mut byte)? == 1 {
        pieces.push(byte[0]);
    }
    let whole = fs::read("/proc/version")?;
    ensure(pieces == whole && whole.starts_with(b"Linux version "), || {
        String::from_utf8_lossy(&pieces).into()
    })?;
    file.seek(SeekFrom::Start(6))?;
    let mut word = [0; 7];
    file.read_exact(&mut word)?;
    equal("text after a seek", &word, b"version")?;
    equal("bytes at a position", file.read_at(&mut word, whole.len() as u64)?, 0)?;
    equal("size", fs::metadata("/proc/version")?.len(), 0)?;
    expect_error("missing file", File::open("/proc/does-not-exist"), libc::ENOENT)?;
    expect_error("new file", File::create("/proc/does-not-exist"), libc::ENOENT)?;
    expect_error("new directory", fs::create_dir("/proc/does-not-exist"), libc::ENOENT)?;
    expect_error("removal", fs::remove_file("/proc/version"), libc::EPERM)?;
    expect_error("name below a file", File::open("/proc/version/x"), libc::ENOTDIR)?;
    expect_error("process without a leading digit", File::open("/proc/01/stat"), libc::ENOENT)?;
    let is_directory = |name| fs::metadata(Path::new("/proc").join(name)).map(|found| found.is_dir());
    equal("sys", is_directory("sys")?, true)?;
    equal("own directory", is_directory("self")?, true)?;
    let listed = names("/proc")?;
    ensure(
        [&*process::id().to_string(), "self", "meminfo"].iter().all(|&name| listed.contains(name)),
        || format!("{listed:?}"),
    )?;
    let child = fork(|| {
        let moved = env::set_current_dir("/proc/self/task/..");
        let expected = format!("/proc/{}", process::id());
        let found = env::current_dir().is_ok_and(|path| path == Path::new(&expected));
        let up = env::set_current_dir("..").is_ok() && Path::new("version").exists();
        let out =
            env::set_current_dir("..").is_ok() && env::current_dir().is_ok_and(|path| path == Path::new("/"));
        i32::from(!(moved.is_ok() && found && up && out))
    })?;
    crate::processes::expect_exit("directories of the child", child, 0)
}

/// The files of a process that exits become those of a zombie, and are gone after the wait.
pub fn exited_process(_: &[String]) -> ProbeResult {
    let child = fork(|| {
        loop {
            // SAFETY: waits.
            unsafe { libc::pause() };
        }
    })?;
    let directory = format!("/proc/{child}");
    let (file, opened) = (File::open(format!("{directory}/stat"))?, File::open(&directory)?);
    equal("parent", field(&format!("{directory}/status"), "PPid")?, process::id().to_string())?;
    // SAFETY: no pointer.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: an information without pointers is written.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::waitid(libc::P_PID, child as u32, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
    equal("state", stat(&format!("{directory}/stat"))?[3].clone(), "Z".into())?;
    equal("maps of a zombie", fs::read(format!("{directory}/maps"))?.len(), 0)?;
    equal("cmdline of a zombie", fs::read(format!("{directory}/cmdline"))?.len(), 0)?;
    expect_error("exe of a zombie", fs::read_link(format!("{directory}/exe")), libc::ENOENT)?;
    equal("wait", wait(child, 0)?.0, child)?;
    expect_error("open file", file.read_at(&mut [0; 64], 0), libc::ESRCH)?;
    expect_error("directory", fs::metadata(&directory), libc::ENOENT)?;
    expect_error("list", names(&directory), libc::ENOENT)?;
    drop(opened);
    Ok(())
}

/// The files of processes are read while the processes start and exit.
pub fn churn(_: &[String]) -> ProbeResult {
    let is_done = AtomicBool::new(false);
    let read = || -> io::Result<usize> {
        let mut count = 0;
        while !is_done.load(Ordering::Relaxed) {
            for name in names("/proc")? {
                if name.parse().is_ok_and(|id: u32| id >= process::id()) {
                    let directory = PathBuf::from("/proc").join(name);
                    for file in ["stat", "status", "statm", "maps", "cmdline", "auxv", "comm"] {
                        count += fs::read(directory.join(file)).map_or(0, |text| text.len());
                    }
                    for descriptor in names(directory.join("fd")).unwrap_or_default() {
                        count += usize::from(fs::read_link(directory.join("fd").join(&descriptor)).is_ok());
                        count += usize::from(fs::read(directory.join("fdinfo").join(&descriptor)).is_ok());
                    }
                    count += usize::from(fs::read_link(directory.join("exe")).is_ok());
                    count += usize::from(fs::metadata(directory.join("cwd")).is_ok());
                }
            }
        }
        Ok(count)
    };
    thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(read));
        let forked =
            (0..iterations(100)).try_for_each(|_| wait(fork(|| 0)?, 0).map(drop).map_err(Failure::from));
        is_done.store(true, Ordering::Relaxed);
        for reader in readers {
            let count = reader.join().map_err(|_| "a reader")??;
            ensure(count > 0, || "nothing was read".into())?;
        }
        forked
    })
}

/// The machine: memory, CPUs and settings agree with system calls.
pub fn machine(_: &[String]) -> ProbeResult {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim_end().to_string());
    // SAFETY: plain data.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: writes the structure.
    unsafe { libc::sysinfo(&raw mut info) };
    let total = format!("{} kB", info.totalram * u64::from(info.mem_unit) / 1024);
    equal("MemTotal", field("/proc/meminfo", "MemTotal")?, total)?;
    // SAFETY: no pointer.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } as usize;
    let count = |path, start: &str| {
        Ok::<_, io::Error>(read(path)?.lines().filter(|line| line.starts_with(start)).count())
    };
    equal("CPUs in stat", count("/proc/stat", "cpu")?, cpus + 1)?;
    equal("CPUs in cpuinfo", count("/proc/cpuinfo", "processor\t:")?, cpus)?;
    let online = if cpus == 1 { "0".into() } else { format!("0-{}", cpus - 1) };
    equal("online", read("/sys/devices/system/cpu/online")?, online)?;
    equal("cpu0", Path::new("/sys/devices/system/cpu/cpu0/topology/core_id").exists(), true)?;
    equal("ostype", read("/proc/sys/kernel/ostype")?, "Linux".into())?;
    let [one, two] = [(); 2].map(|()| read("/proc/sys/kernel/random/uuid").unwrap_or_default());
    ensure(one != two && one.len() == 36 && one.as_bytes()[14] == b'4', || format!("{one} {two}"))?;
    let [one, two] = [(); 2].map(|()| read("/proc/sys/kernel/random/boot_id").unwrap_or_default());
    ensure(one == two && one.len() == 36, || format!("{one} {two}"))?;
    let mounts = read("/proc/mounts")?;
    ensure(mounts.lines().any(|line| line.starts_with("proc /proc proc rw,")), || mounts.clone())?;
    ensure(mounts.lines().any(|line| line.contains(" /sys sysfs rw,")), || mounts.clone())?;
    let information = read("/proc/self/mountinfo")?;
    // Major and minor number, and the path.
    let has_mount = |path: &str, device: u64| {
        let start = format!("{}:{}", libc::major(device), libc::minor(device));
        let is_it = |words: &[&str]| words[2] == start && words[4] == path && words.contains(&"-");
        information.lines().any(|line| is_it(&line.split(' ').collect::<Vec<_>>()))
    };
    for path in ["/proc", "/sys", "/dev/shm"] {
        ensure(has_mount(path, fs::metadata(path)?.dev()), || format!("{path} in {information}"))?;
    }
    let limits = read("/proc/self/limits")?;
    // SAFETY: writes the structure.
    let files = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit
    };
    let expected = format!("Max open files            {:<20} {:<20} files", files.rlim_cur, files.rlim_max);
    ensure(limits.lines().any(|line| line.trim_end() == expected), || limits.clone())?;
    equal("free pages", count("/proc/vmstat", "nr_free_pages ")?, 1)?;
    let uptime = read("/proc/uptime")?;
    ensure(uptime.split(' ').all(|time| time.parse::<f64>().is_ok_and(|time| time >= 0.0)), || uptime.clone())
}

/// Classes of devices link to their directories; PCI functions have their registers.
pub fn devices(_: &[String]) -> ProbeResult {
    let link = fs::read_link("/sys/class/mem/null")?;
    equal("link", link, PathBuf::from("../../devices/virtual/mem/null"))?;
    equal("dev", fs::read_to_string("/sys/class/mem/null/dev")?, "1:3\n".into())?;
    let text = fs::read_to_string("/sys/dev/char/1:3/uevent")?;
    ensure(text.starts_with("MAJOR=1\nMINOR=3\nDEVNAME=null\n"), || text.clone())?;
    let class = fs::canonicalize("/sys/class/mem/null/subsystem")?;
    equal("subsystem", class, PathBuf::from("/sys/class/mem"))?;
    expect_error("write", OpenOptions::new().write(true).open("/sys/class/mem/null/dev"), libc::EACCES)?;
    let Ok(functions) = names("/sys/bus/pci/devices") else { return Ok(()) };
    for name in functions {
        let directory = fs::canonicalize(format!("/sys/bus/pci/devices/{name}"))?;
        ensure(directory.starts_with("/sys/devices") && directory.ends_with(&name), || {
            format!("{directory:?}")
        })?;
        let hexadecimal = |file: &str| -> io::Result<u32> {
            let text = fs::read_to_string(directory.join(file))?;
            Ok(u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(u32::MAX))
        };
        let mut bytes = [0; 12];
        File::open(directory.join("config"))?.read_exact_at(&mut bytes, 0)?;
        let ids = [0, 2].map(|at| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])));
        equal("vendor and device", [hexadecimal("vendor")?, hexadecimal("device")?], ids)?;
        let class = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        equal("class and revision", hexadecimal("class")? << 8 | hexadecimal("revision")?, class)?;
        let lines = fs::read_to_string(directory.join("resource"))?;
        ensure(lines.lines().count() >= 7 && lines.lines().all(|line| line.len() == 56), || lines.clone())?;
        let bus = fs::canonicalize(directory.join("subsystem"))?;
        equal("subsystem", bus, PathBuf::from("/sys/bus/pci"))?;
    }
    Ok(())
}
