//! Processes: fork, exec, wait, process groups and sessions.

use std::io;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::result::{Failure, ProbeResult, ensure, expect_error};

const PAGE: usize = 4096;
const PAGES: usize = 40;

/// The result of a system call of the C library.
pub fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs `child` in a child process, which exits with its result, and returns the id of the child. The child
/// has one thread, and must not use locks that other threads of the parent may hold.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32, Failure> {
    // SAFETY: the child calls `child` and exits.
    let id = unsafe { libc::fork() };
    if id == 0 {
        let status = child();
        // SAFETY: ends the process, without destructors.
        unsafe { libc::_exit(status) };
    }
    Ok(check(id.into())? as i32)
}

/// Waits for a child, and returns its id and status, or 0 for `WNOHANG`.
pub fn wait(id: i32, options: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    let id = check(unsafe { libc::waitpid(id, &raw mut status, options) }.into())?;
    Ok((id as i32, status))
}

/// Waits for the child `id`, which must exit with `expected`.
pub fn expect_exit(case: &str, id: i32, expected: i32) -> ProbeResult {
    let (_, status) = wait(id, 0)?;
    let seen = (libc::WIFEXITED(status), libc::WEXITSTATUS(status));
    ensure(seen == (true, expected), || format!("{case}: wait status {status:#x}"))
}

fn map(flags: i32) -> io::Result<*mut u64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), PAGES * PAGE, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
}

/// The word of a page.
fn word(base: *mut u64, page: usize) -> *mut u64 {
    base.wrapping_add(page * PAGE / 8)
}

/// Parent and child have their own content of private memory, and one content of shared memory.
pub fn memory(_: &[String]) -> ProbeResult {
    let (private, shared) = (map(libc::MAP_PRIVATE)?, map(libc::MAP_SHARED)?);
    let read = |base, page| {
        // SAFETY: a word of a mapping above.
        unsafe { word(base, page).read_volatile() }
    };
    let write = |base, page, value| {
        // SAFETY: as above.
        unsafe { word(base, page).write_volatile(value) }
    };
    (0..PAGES / 2).for_each(|page| write(private, page, page as u64));
    let child = fork(|| {
        let inherits =
            (0..PAGES).all(|page| read(private, page) == if page < PAGES / 2 { page as u64 } else { 0 });
        (0..PAGES).for_each(|page| write(private, page, 1000 + page as u64));
        (0..PAGES).for_each(|page| write(shared, page, 2000 + page as u64));
        let keeps = (0..PAGES).all(|page| read(private, page) == 1000 + page as u64);
        i32::from(!(inherits && keeps))
    })?;
    // At the same time as the child.
    (0..PAGES).step_by(3).for_each(|page| write(private, page, 3000));
    expect_exit("memory of the child", child, 0)?;
    for page in 0..PAGES {
        let expected = match page {
            _ if page % 3 == 0 => 3000,
            _ if page < PAGES / 2 => page as u64,
            _ => 0,
        };
        ensure(read(private, page) == expected, || format!("page {page}: {}", read(private, page)))?;
        let seen = read(shared, page);
        ensure(seen == 2000 + page as u64, || format!("shared page {page}: {seen}"))?;
    }
    // A grandchild writes to a page that its parent has not accessed since the fork.
    let child = fork(|| {
        let Ok(grandchild) = fork(|| {
            write(private, 1, 77);
            i32::from(read(private, 1) != 77)
        }) else {
            return 1;
        };
        i32::from(expect_exit("grandchild", grandchild, 0).is_err() || read(private, 1) != 1)
    })?;
    expect_exit("child of a child", child, 0)
}

/// `mprotect` after a fork keeps the content of the other process.
pub fn protection(_: &[String]) -> ProbeResult {
    let private = map(libc::MAP_PRIVATE)?;
    // SAFETY: the mapping above.
    let protect =
        |protection| check(unsafe { libc::mprotect(private.cast(), PAGES * PAGE, protection) }.into());
    // SAFETY: as above.
    unsafe { private.write_volatile(5) };
    let child = fork(|| {
        let done = protect(libc::PROT_READ).and_then(|_| protect(libc::PROT_READ | libc::PROT_WRITE));
        // SAFETY: as above.
        unsafe { private.write_volatile(6) };
        i32::from(done.is_err())
    })?;
    expect_exit("mprotect in the child", child, 0)?;
    // SAFETY: as above.
    let seen = unsafe { private.read_volatile() };
    ensure(seen == 5, || format!("{seen} after the write of the child"))
}

/// The statuses of exits, and the errors of waits.
pub fn exits(_: &[String]) -> ProbeResult {
    expect_error("wait without a child", wait(-1, 0), libc::ECHILD)?;
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    let child = fork(|| {
        // Runs until the parent writes.
        // SAFETY: the buffer is valid.
        let read = unsafe { libc::read(ends[0], [0u8].as_mut_ptr().cast(), 1) };
        if read == 1 { 7 } else { 1 }
    })?;
    ensure(wait(child, libc::WNOHANG)?.0 == 0, || "a running child has exited".into())?;
    expect_error("wait for another process", wait(1 << 22, 0), libc::ECHILD)?;
    expect_error("wait with bad options", wait(child, 0x10), libc::EINVAL)?;
    // SAFETY: one valid byte.
    check(unsafe { libc::write(ends[1], [0u8].as_ptr().cast(), 1) } as i64)?;
    // SAFETY: the descriptors above.
    ends.iter().for_each(|&end| _ = unsafe { libc::close(end) });
    // SAFETY: zero is valid; `info` is valid for the calls.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let result =
        unsafe { libc::waitid(libc::P_PID, child as u32, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
    check(result.into())?;
    // SAFETY: a siginfo of a child.
    let seen = unsafe { (info.si_signo, info.si_code, info.si_pid(), info.si_status()) };
    ensure(seen == (libc::SIGCHLD, libc::CLD_EXITED, child, 7), || format!("waitid: {seen:?}"))?;
    expect_exit("exit status", child, 7)?;
    expect_error("second wait", wait(child, 0), libc::ECHILD)?;

    let child = fork(|| {
        loop {
            thread::park();
        }
    })?;
    for signal in [0, libc::SIGTERM] {
        // SAFETY: no memory is passed.
        check(unsafe { libc::kill(child, signal) }.into())?;
    }
    let (_, status) = wait(-1, 0)?;
    ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM, || format!("{status:#x}"))?;
    // SAFETY: no memory is passed.
    expect_error("kill of no process", check(unsafe { libc::kill(child, 0) }.into()), libc::ESRCH)?;
    let child = fork(|| {
        // SAFETY: faults.
        unsafe { ptr::null_mut::<u8>().write_volatile(0) };
        0
    })?;
    let (_, status) = wait(child, 0)?;
    ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, || format!("{status:#x}"))
}

static CHILD: AtomicI32 = AtomicI32::new(0);
static STATUS: AtomicI32 = AtomicI32::new(0);

extern "C" fn child_exited(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a `siginfo_t` of a child.
    let (child, status) = unsafe { ((*info).si_pid(), (*info).si_status()) };
    CHILD.store(child, SeqCst);
    STATUS.store(status, SeqCst);
}

fn set_child_action(action: usize, flags: i32) -> io::Result<()> {
    // SAFETY: zero is a valid action.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = action;
    new.sa_flags = flags;
    // SAFETY: a valid action.
    check(unsafe { libc::sigaction(libc::SIGCHLD, &raw const new, ptr::null_mut()) }.into()).map(drop)
}

/// `SIGCHLD` describes the exit; a parent that ignores it has no zombies.
pub fn child_signal(_: &[String]) -> ProbeResult {
    set_child_action(child_exited as *const () as usize, libc::SA_SIGINFO | libc::SA_RESTART)?;
    let child = fork(|| 3)?;
    expect_exit("child with a handler", child, 3)?;
    let seen = (CHILD.load(SeqCst), STATUS.load(SeqCst));
    ensure(seen == (child, 3), || format!("SIGCHLD: {seen:?}"))?;
    for (action, flags) in [(libc::SIG_IGN, 0), (libc::SIG_DFL, libc::SA_NOCLDWAIT)] {
        set_child_action(action, flags)?;
        fork(|| 3)?;
        // Waits for all children.
        expect_error("wait for ignored children", wait(-1, 0), libc::ECHILD)?;
    }
    set_child_action(libc::SIG_DFL, 0)?;
    Ok(())
}

/// A child whose parent exits gets another one.
pub fn orphans(_: &[String]) -> ProbeResult {
    let shared = map(libc::MAP_SHARED)?.cast::<AtomicU32>();
    // SAFETY: shared memory, zeroed, for the life of the process.
    let adopted = unsafe { &*shared };
    let child = fork(|| {
        // SAFETY: no arguments.
        let parent = unsafe { libc::getpid() };
        let grandchild = fork(|| {
            for _ in 0..1000 {
                // SAFETY: no arguments.
                if unsafe { libc::getppid() } != parent {
                    adopted.store(1, SeqCst);
                    return 0;
                }
                thread::sleep(Duration::from_millis(5));
            }
            1
        });
        i32::from(grandchild.is_err())
    })?;
    expect_exit("child", child, 0)?;
    for _ in 0..1000 {
        if adopted.load(SeqCst) == 1 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err("the orphan keeps its parent".into())
}

/// Process groups and sessions, and signals to a group.
pub fn groups(_: &[String]) -> ProbeResult {
    // SAFETY: no memory is passed, here and below.
    let (own, group) = unsafe { (libc::getpid(), libc::getpgrp()) };
    let children = [(); 2].map(|()| {
        fork(|| {
            loop {
                thread::park();
            }
        })
    });
    let [first, second] = children;
    let (first, second) = (first?, second?);
    // SAFETY: as above.
    let set_group = |id, group| check(unsafe { libc::setpgid(id, group) }.into());
    // SAFETY: as above.
    let group_of = |id| unsafe { libc::getpgid(id) };
    ensure(group_of(first) == group, || "the child is not in the group of its parent".into())?;
    set_group(first, 0)?;
    set_group(second, first)?;
    ensure((group_of(first), group_of(second)) == (first, first), || "setpgid has no effect".into())?;
    expect_error("setpgid to no group", set_group(second, 1 << 22), libc::EPERM)?;
    expect_error("setpgid with a negative group", set_group(second, -1), libc::EINVAL)?;
    expect_error("setpgid of no child", set_group(1 << 22, 0), libc::ESRCH)?;
    expect_error("wait for an empty group", wait(-(1 << 22), 0), libc::ECHILD)?;
    // SAFETY: as above.
    check(unsafe { libc::kill(-first, libc::SIGKILL) }.into())?;
    for _ in 0..2 {
        let (_, status) = wait(-first, 0)?;
        ensure(libc::WTERMSIG(status) == libc::SIGKILL, || format!("{status:#x}"))?;
    }
    // SAFETY: as above.
    let session = unsafe { libc::getsid(0) };
    let child = fork(|| {
        // SAFETY: as above.
        let (own, new) = unsafe { (libc::getpid(), libc::setsid()) };
        // SAFETY: as above.
        let seen = unsafe { (libc::getsid(0), libc::getpgrp(), libc::setsid()) };
        i32::from(new != own || seen != (own, own, -1))
    })?;
    expect_exit("setsid", child, 0)?;
    // SAFETY: as above.
    let seen = unsafe { (libc::getsid(0), libc::getsid(own)) };
    ensure(seen == (session, session), || format!("session {seen:?}"))
}

fn own_path() -> String {
    std::env::args().next().unwrap_or_default()
}

/// The number of descriptors, above those of the standard streams, that a program inherits.
fn inherited_descriptors() -> usize {
    // SAFETY: no memory is passed.
    let flags = |number| unsafe { libc::fcntl(number, libc::F_GETFD) };
    (3..40).filter(|&number| matches!(flags(number), 0..) && flags(number) & libc::FD_CLOEXEC == 0).count()
}

/// Helper of [`exec`]: prints its arguments, its environment and the descriptors that are open.
pub fn print_start(arguments: &[String]) -> ProbeResult {
    let value = std::env::var("PROBE_VALUE").unwrap_or_default();
    // SAFETY: no arguments.
    let id = unsafe { libc::getpid() };
    println!("start {arguments:?} {value} {} {id}", inherited_descriptors());
    Ok(())
}

/// The standard library starts a program, passes arguments and environment, and reads its output.
pub fn exec(_: &[String]) -> ProbeResult {
    let kept = std::fs::File::open("/dev/null")?;
    let output = Command::new(own_path())
        .args(["print-start", "one", "two words", ""])
        .env("PROBE_VALUE", "seven")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    drop(kept);
    ensure(output.status.success(), || format!("{}: {text}", output.status))?;
    let expected = format!("start [\"one\", \"two words\", \"\"] seven {} ", inherited_descriptors());
    ensure(text.starts_with(&expected), || format!("output: {text}"))?;
    expect_error("a missing program", Command::new("/nowhere").output(), libc::ENOENT)?;
    expect_error("a directory", Command::new("/dev").output(), libc::EACCES)?;
    let status = Command::new(own_path()).args(["exit", "9"]).status()?;
    ensure(status.code() == Some(9), || format!("exit status: {status}"))?;
    // Several at the same time, with pipes between them.
    let children: Vec<_> = (0..4)
        .map(|_| Command::new(own_path()).arg("print-start").stdout(Stdio::piped()).spawn())
        .collect::<io::Result<_>>()?;
    for child in children {
        let id = child.id();
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(text.contains(&format!(" {id}\n")), || format!("the id is not {id}: {text}"))?;
    }
    Ok(())
}

/// A thread executes a program while others run: the process keeps its id, and has one thread.
pub fn exec_from_a_thread(_: &[String]) -> ProbeResult {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are stored.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    let path = std::ffi::CString::new(own_path()).map_err(|_| "a null byte in the path")?;
    let child = fork(|| {
        // SAFETY: open descriptors.
        unsafe { libc::dup2(ends[1], 1) };
        (0..4).for_each(|_| {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        });
        let executing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            let arguments = [path.as_ptr(), c"print-start".as_ptr(), ptr::null()];
            // SAFETY: null-terminated arrays of strings.
            unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
        });
        let _ = executing.join();
        1
    })?;
    expect_exit("the new program", child, 0)?;
    let mut text = [0u8; 256];
    // SAFETY: the buffer is valid.
    let count = check(unsafe { libc::read(ends[0], text.as_mut_ptr().cast(), text.len()) } as i64)?;
    let text = String::from_utf8_lossy(&text[..count as usize]).into_owned();
    ensure(text.starts_with("start [] ") && text.contains(&format!(" {child}\n")), || text)
}

/// All processes; the next fork after their exit succeeds.
pub fn exhaust(_: &[String]) -> ProbeResult {
    for round in 0..2 {
        let mut children = Vec::new();
        let error = loop {
            match fork(|| {
                loop {
                    thread::park();
                }
            }) {
                Ok(child) => children.push(child),
                Err(error) => break error,
            }
        };
        println!("  {} processes, then: {error}", children.len());
        ensure(children.len() > 4, || format!("round {round}: {} children", children.len()))?;
        for child in &children {
            // SAFETY: no memory is passed.
            check(unsafe { libc::kill(*child, libc::SIGKILL) }.into())?;
        }
        for _ in &children {
            wait(-1, 0)?;
        }
    }
    let child = fork(|| 0)?;
    expect_exit("fork afterwards", child, 0)
}

/// The state of a process in its `stat`.
fn state(id: i32) -> Result<char, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_, fields) = text.rsplit_once(") ").ok_or("no name in stat")?;
    Ok(fields.chars().next().unwrap_or_default())
}

/// A stopped child runs again after SIGCONT; its parent is told of both.
pub fn stops(_: &[String]) -> ProbeResult {
    // Linux ignores SIGTSTP in an orphaned group, as that of a test may be; one with a parent outside is
    // none. SAFETY: no pointer.
    unsafe { libc::setpgid(0, 0) };
    // SAFETY: no pointer.
    let kill = |id: i32, signal: i32| check(unsafe { libc::kill(id, signal) }.into());
    let expect_wait = |case: &str, id: i32, options: i32, expected: i32| {
        let (_, status) = wait(id, options)?;
        ensure(status == expected, || format!("{case}: wait status {status:#x}, not {expected:#x}"))
    };
    let stopped = |signal: i32| signal << 8 | 0x7f;
    let child = fork(|| {
        // SAFETY: no pointer.
        unsafe { libc::raise(libc::SIGSTOP) };
        // SAFETY: no pointer.
        unsafe { libc::raise(libc::SIGTSTP) };
        7
    })?;
    expect_wait("stop", child, libc::WUNTRACED, stopped(libc::SIGSTOP))?;
    ensure(state(child)? == 'T', || format!("the state is {:?}", state(child)))?;
    ensure(wait(child, libc::WUNTRACED | libc::WNOHANG)?.0 == 0, || "the stop is returned twice".into())?;
    kill(child, libc::SIGCONT)?;
    expect_wait("continuation or stop", child, libc::WUNTRACED, stopped(libc::SIGTSTP))?;
    kill(child, libc::SIGCONT)?;
    expect_wait("exit", child, 0, 7 << 8)?;

    let child = fork(|| {
        loop {
            // SAFETY: waits.
            unsafe { libc::pause() };
        }
    })?;
    kill(child, libc::SIGSTOP)?;
    expect_wait("stop of a waiting child", child, libc::WUNTRACED, stopped(libc::SIGSTOP))?;
    kill(child, libc::SIGCONT)?;
    expect_wait("continuation", child, libc::WCONTINUED, 0xffff)?;
    kill(child, libc::SIGSTOP)?;
    expect_wait("second stop", child, libc::WUNTRACED, stopped(libc::SIGSTOP))?;
    kill(child, libc::SIGTERM)?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    ensure(state(child)? == 'T', || "SIGTERM ends a stopped process".into())?;
    kill(child, libc::SIGCONT)?;
    expect_wait("SIGTERM after the continuation", child, 0, libc::SIGTERM)?;

    let child = fork(|| {
        loop {
            std::hint::spin_loop();
        }
    })?;
    kill(child, libc::SIGSTOP)?;
    expect_wait("stop of a running child", child, libc::WUNTRACED, stopped(libc::SIGSTOP))?;
    kill(child, libc::SIGKILL)?;
    expect_wait("SIGKILL of a stopped child", child, 0, libc::SIGKILL)?;

    let child = fork(|| {
        let set = 1u64 << (libc::SIGTSTP - 1);
        let mask = |how: i32| {
            let at = std::ptr::from_ref(&set);
            // SAFETY: reads the set.
            unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, at, 0, 8) }
        };
        mask(libc::SIG_BLOCK);
        // SAFETY: no pointer.
        unsafe { libc::raise(libc::SIGTSTP) };
        mask(libc::SIG_UNBLOCK);
        3
    })?;
    expect_wait("stop that was blocked", child, libc::WUNTRACED, stopped(libc::SIGTSTP))?;
    kill(child, libc::SIGCONT)?;
    expect_wait("its exit", child, 0, 3 << 8)
}
