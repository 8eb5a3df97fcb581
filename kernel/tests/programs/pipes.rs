//! Pipes, connected sockets and pidfds.

use super::{BASE, boot, space_with_pages};
use abi::Errno;
use abi::file::{IoVec, PollEvents};
use abi::terminal::FIONREAD;
use addr::PAGE_SIZE;
use kernel::fs::pipe::Pipe;
use kernel::fs::pipe::socket::Socket;
use kernel::fs::readiness::Watcher;
use kernel::fs::{Caller, File, FileTable};
use kernel::process::futex::Futexes;
use kernel::process::signals::{self, Receiver};
use kernel::process::{PidFd, Process, Task, Termination, new_thread, next_id, timers};
use kernel::sched;
use kernel::vm::access::UserMemory;
use program::FdTable;
use std::sync::Arc;

const READABLE: PollEvents = PollEvents::IN.union(PollEvents::RDNORM);
const WRITABLE: PollEvents = PollEvents::OUT.union(PollEvents::WRNORM);

#[test]
fn pipe_reports_and_limits_its_bytes() {
    let _kernel = boot();
    let space = space_with_pages(33);
    let memory = UserMemory::new(&space);
    let (reader, writer) = Pipe::ends().unwrap();
    let files: FileTable = sched::Mutex::new(FdTable::new(4));
    let caller = Caller { process_id: 1, space: &space, files: &files };
    assert_eq!(reader.read(memory, BASE, 1), Err(Errno::EAGAIN));
    assert_eq!(writer.write(memory, BASE, 100_000), Ok(65_536));
    assert_eq!((reader.poll(), writer.poll()), (READABLE, PollEvents::empty()));
    assert_eq!(reader.pipe().set_capacity(4096), Err(Errno::EBUSY));
    assert_eq!(reader.pipe().set_capacity(70_000), Ok(131_072));
    assert_eq!((reader.ioctl(&caller, FIONREAD, BASE.raw()), memory.read(BASE)), (Ok(0), Ok(65_536i32)));
    assert_eq!(writer.poll(), WRITABLE);
    assert_eq!(reader.read(memory, BASE, 100_000), Ok(65_536));
    assert_eq!(reader.pipe().set_capacity(0), Ok(4096));
    assert_eq!(writer.write(memory, BASE, 1), Ok(1));
    assert_eq!(writer.poll(), PollEvents::empty(), "less room than PIPE_BUF");
    drop(writer);
    assert_eq!(reader.poll(), READABLE | PollEvents::HUP);
    assert_eq!([reader.read(memory, BASE, 9), reader.read(memory, BASE, 9)], [Ok(1), Ok(0)]);
    let (reader, writer) = Pipe::ends().unwrap();
    drop(reader);
    assert_eq!(writer.poll(), WRITABLE | PollEvents::ERR);
    assert_eq!([0, 1].map(|len| writer.write(memory, BASE, len)), [Ok(0), Err(Errno::EPIPE)]);
}

#[test]
fn vectors_continue_at_the_start_of_each_segment() {
    let _kernel = boot();
    let space = space_with_pages(2);
    let memory = UserMemory::new(&space);
    let (reader, writer) = Pipe::ends().unwrap();
    memory.write_bytes(BASE, b"abcdefgh").unwrap();
    let vector = |parts: [(u64, u64); 3]| parts.map(|(at, len)| IoVec { base: (BASE + at).raw(), len });
    assert_eq!(writer.write_vector(memory, &vector([(0, 3), (3, 0), (4, 2)])), Ok(5));
    let to = PAGE_SIZE;
    assert_eq!(reader.read_vector(memory, &vector([(to, 1), (to + 8, 2), (to + 16, 9)])), Ok(5));
    let read = |at| memory.read::<[u8; 3]>(BASE + to + at).unwrap();
    assert_eq!([read(0), read(8), read(16)], [*b"a\0\0", *b"bc\0", *b"ef\0"]);
}

#[test]
fn half_that_was_shut_down_is_at_its_end() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let memory = UserMemory::new(&space);
    let [first, second] = Socket::pair().unwrap();
    assert_eq!(first.read(memory, BASE, 1), Err(Errno::EAGAIN));
    first.shut_down_receiving();
    assert_eq!(first.read(memory, BASE, 1), Ok(0));
    assert_eq!(second.write(memory, BASE, 1), Err(Errno::EPIPE));
    assert_eq!(first.write(memory, BASE, 1), Ok(1));
}

fn thread(process: &Arc<Process>) -> Arc<sched::Thread> {
    let space = (process.space().unwrap(), Futexes::new().unwrap());
    let task = Task::new(next_id(), process.clone(), space, BASE);
    let frame = arch::exception::UserFrame::program(BASE, BASE);
    new_thread(task, frame).unwrap()
}

#[test]
fn both_halves_of_a_socket_are_watched() {
    let _kernel = boot();
    let process = Process::new(space_with_pages(1)).unwrap();
    let thread = thread(&process);
    let before = Arc::strong_count(&thread);
    let watcher = Watcher::Thread(thread.clone());
    let [socket, _peer] = Socket::pair().unwrap();
    let watched = socket.watched().unwrap();
    watched.watch(&watcher).unwrap();
    assert_eq!(Arc::strong_count(&thread), before + 3, "the watcher, and that of each half");
    watched.unwatch(&watcher);
    assert_eq!(Arc::strong_count(&thread), before + 1);
}

#[test]
fn pidfd_is_opened_for_an_existing_process_only() {
    let _kernel = boot();
    assert_eq!(PidFd::new(u32::MAX).map(drop), Err(Errno::ESRCH));
}

/// The signal of a timer that expired before it was set again belongs to the old time.
#[test]
fn timer_that_is_set_again_has_no_pending_signal() {
    use abi::clock::ClockId;
    use abi::signal::{SA_SIGINFO, SigAction, SigInfo, Signal};
    let _kernel = boot();
    let process = Process::new(space_with_pages(1)).unwrap();
    let thread = thread(&process);
    assert!(process.add_thread(&thread));
    let signal = Signal::SIGUSR1;
    let action = SigAction { handler: 1 << 16, flags: SA_SIGINFO, restorer: 0, mask: 0 };
    signals::set_action(&process, signal, action);
    let notify = |id| {
        let info = SigInfo::timer(signal, id, 0);
        Some(timers::Notification { receiver: Receiver::Process, signal, info })
    };
    let mut timers = timers::Timers::default();
    let ids: Vec<_> = (0..).map_while(|_| timers.create(&process, ClockId::Monotonic, notify).ok()).collect();
    assert_eq!(ids, (0..128).collect::<Vec<u32>>());
    let info = notify(5).unwrap().info;
    signals::send(&process, Receiver::Process, Some(signal), |_| info).unwrap();
    let is_pending = || signals::pending(Task::of(&thread).unwrap()).contains(signal);
    assert!(is_pending());
    timers.get(5).unwrap().set(&process, 1 << 40, 0, false);
    assert!(!is_pending());
    assert!(timers.delete(&process, 5).is_ok());
    assert_eq!(
        [timers.delete(&process, 5), timers.delete(&process, 128), timers.delete(&process, -1)],
        [Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::EINVAL)]
    );
    assert_eq!(timers.create(&process, ClockId::Monotonic, notify), Ok(5), "the lowest free id");
    timers.clear(&process);
    process.terminate(Termination::Exited(0));
}

#[test]
fn threads_compare_cpu_time_while_a_timer_is_armed() {
    use abi::clock::ClockId;
    use abi::signal::{SigInfo, Signal};
    let _kernel = boot();
    let process = Process::new(space_with_pages(1)).unwrap();
    let [first, second] = [(); 2].map(|()| thread(&process));
    assert!(process.add_thread(&first));
    let notify = |id| {
        let info = SigInfo::timer(Signal::SIGUSR1, id, 0);
        Some(timers::Notification { receiver: Receiver::RunningThread, signal: Signal::SIGUSR1, info })
    };
    let mut timers = timers::Timers::default();
    let [cpu, silent, real] = [
        timers.create(&process, ClockId::ProcessCpu(0), notify),
        timers.create(&process, ClockId::ProcessCpu(0), |_| None),
        timers.create(&process, ClockId::Monotonic, notify),
    ]
    .map(|id| id.unwrap() as i32);
    for (id, is_timed) in [(real, false), (silent, false), (cpu, true)] {
        timers.get(id).unwrap().set(&process, 1 << 40, 0, false);
        timers.expire_cpu_times(&process);
        assert_eq!(first.is_timed(), is_timed, "timer {id}");
    }
    assert!(process.add_thread(&second));
    assert!(second.is_timed(), "a new thread");
    timers.delete(&process, cpu).unwrap();
    timers.expire_cpu_times(&process);
    assert!(!first.is_timed() && !second.is_timed());
    timers.clear(&process);
    process.terminate(Termination::Exited(0));
}
