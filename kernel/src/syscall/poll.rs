//! `ppoll` and `pselect6`, and the arguments that they share with `epoll_pwait`.

use super::{SyscallContext, SyscallResult};
use crate::debug::{self, FailPoint};
use crate::fs::OpenFile;
use crate::fs::readiness::{self, Watch};
use crate::sched::{self, Nanoseconds};
use abi::Errno;
use abi::clock::Timespec;
use abi::file::*;
use abi::signal::{SIGSET_BYTES, SignalSet, blockable};
use addr::UserVa;
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

/// The interval at which files without watchers are polled.
const SAMPLE_INTERVAL_NS: Nanoseconds = 5_000_000;

/// The end of a wait.
#[derive(Clone, Copy)]
pub enum Timeout {
    /// Without a wait.
    Now,
    At(Nanoseconds),
    Never,
}

impl Timeout {
    /// Reads the duration at the address in argument `argument`; a null pointer means no limit.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`.
    pub fn read(call: &SyscallContext<'_>, argument: usize) -> Result<Self, Errno> {
        Ok(call.timeout(argument)?.map_or(Self::Never, Self::after))
    }

    /// A negative number means no limit.
    pub fn from_milliseconds(milliseconds: i32) -> Self {
        u64::try_from(milliseconds).map_or(Self::Never, |duration| Self::after(duration * 1_000_000))
    }

    fn after(duration: Nanoseconds) -> Self {
        match duration {
            0 => Self::Now,
            _ => Self::At(sched::time::now().saturating_add(duration)),
        }
    }

    pub fn deadline(self) -> Option<Nanoseconds> {
        match self {
            Self::Now => Some(0),
            Self::At(deadline) => Some(deadline),
            Self::Never => None,
        }
    }

    pub fn has_passed(self) -> bool {
        self.deadline().is_some_and(|deadline| deadline == 0 || sched::time::now() >= deadline)
    }

    /// Stores the remaining time at `at`, as Linux does. A failure is ignored: the memory may be read-only.
    fn write_remaining(self, call: &SyscallContext<'_>, at: UserVa) {
        if let Some(deadline) = self.deadline() {
            let remaining = deadline.saturating_sub(sched::time::now());
            let _ = call.memory().write(at, &Timespec::from_nanoseconds(remaining));
        }
    }
}

/// Runs `wait` with the signal mask at `mask`, unless it is a null pointer.
///
/// # Errors
/// Those of `wait`, `EINVAL` for a wrong size of the mask, `EFAULT`.
pub fn with_signal_mask(
    call: &SyscallContext<'_>,
    mask: UserVa,
    size: u64,
    wait: impl FnOnce() -> SyscallResult,
) -> SyscallResult {
    if mask.raw() == 0 {
        return wait();
    }
    if size != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = call.memory().read(mask)?;
    call.task.suspend_mask(SignalSet::from_bits(blockable(mask)));
    let result = wait();
    // An interrupted call returns with the mask, with which the signal is delivered.
    if !matches!(result, Err(Errno::EINTR)) {
        call.task.restore_mask();
    }
    result
}

pub fn ppoll(call: &SyscallContext<'_>) -> SyscallResult {
    let timeout = Timeout::read(call, 2)?;
    let result = with_signal_mask(call, call.address(3), call.value(4), || {
        let count = call.value(1) as u32 as usize;
        let limit = call.process().files.lock().limits().0;
        let mut fds: Vec<PollFd> = zeroed(Some(count).filter(|&count| count <= limit).ok_or(Errno::EINVAL)?)?;
        call.memory().read_bytes(call.address(0), fds.as_mut_bytes())?;
        let mut files = {
            let open = call.process().files.lock();
            let mut files = with_capacity(fds.len())?;
            files.extend(fds.iter().map(|fd| match open.get(fd.fd) {
                Ok(found) => {
                    let always = PollEvents::ERR | PollEvents::HUP;
                    PolledFile::new(
                        Some(found.file.clone()),
                        PollEvents::from_bits_retain(fd.events) | always,
                    )
                }
                Err(_) if fd.fd < 0 => PolledFile::new(None, PollEvents::empty()),
                Err(_) => PolledFile::new(None, PollEvents::NVAL),
            }));
            files
        };
        let ready = wait_for_any(&mut files, timeout)?;
        for (fd, file) in fds.iter_mut().zip(&files) {
            fd.revents = file.found.bits();
        }
        call.memory().write_bytes(call.address(0), fds.as_bytes())?;
        Ok(ready as u64)
    });
    timeout.write_remaining(call, call.address(2));
    result
}

/// The events of the three sets of `pselect6`: for reading, for writing, exceptional.
const SET_EVENTS: [PollEvents; 3] = [
    PollEvents::IN.union(PollEvents::RDNORM).union(PollEvents::HUP).union(PollEvents::ERR),
    PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::ERR),
    PollEvents::PRI,
];

pub fn pselect6(call: &SyscallContext<'_>) -> SyscallResult {
    let [mask, size] = match call.value(5) {
        0 => [0; 2],
        _ => call.memory().read(call.address(5))?,
    };
    let timeout = Timeout::read(call, 4)?;
    let result = with_signal_mask(call, UserVa::new(mask), size, || {
        let count = usize::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?;
        let count = count.min(call.process().files.lock().limits().0);
        let mut sets: [Vec<u64>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for (n, set) in sets.iter_mut().enumerate().filter(|(n, _)| call.value(1 + n) != 0) {
            *set = zeroed(count.div_ceil(64))?;
            call.memory().read_bytes(call.address(1 + n), set.as_mut_bytes())?;
        }
        let (numbers, mut files) = selected_files(call, count, &sets)?;
        wait_for_any(&mut files, timeout)?;
        let mut ready = 0;
        for (set, events) in sets.iter_mut().zip(SET_EVENTS) {
            let requested = core::mem::replace(set, zeroed(set.len())?);
            for (&number, file) in numbers.iter().zip(&files) {
                let is_ready = is_in(&requested, number) && file.found.intersects(events);
                if is_ready {
                    set[number / 64] |= 1 << (number % 64);
                    ready += 1;
                }
            }
        }
        for (n, set) in sets.iter().enumerate().filter(|(n, _)| call.value(1 + n) != 0) {
            call.memory().write_bytes(call.address(1 + n), set.as_bytes())?;
        }
        Ok(ready)
    });
    timeout.write_remaining(call, call.address(4));
    result
}

fn is_in(set: &[u64], number: usize) -> bool {
    set.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 != 0)
}

/// Returns the descriptors below `count` that are in a set, and their files.
///
/// # Errors
/// `EBADF` if one is not open, `ENOMEM`.
fn selected_files(
    call: &SyscallContext<'_>,
    count: usize,
    sets: &[Vec<u64>; 3],
) -> Result<(Vec<usize>, Vec<PolledFile>), Errno> {
    let wanted = |number| {
        let sets = sets.iter().zip(SET_EVENTS).filter(move |(set, _)| is_in(set, number));
        sets.map(|(_, events)| events).reduce(PollEvents::union)
    };
    let mut numbers = with_capacity((0..count).filter(|&number| wanted(number).is_some()).count())?;
    numbers.extend((0..count).filter(|&number| wanted(number).is_some()));
    let open = call.process().files.lock();
    let mut files = with_capacity(numbers.len())?;
    for &number in &numbers {
        let file = open.get(number as i32)?.file.clone();
        files.push(PolledFile::new(Some(file), wanted(number).unwrap_or(PollEvents::empty())));
    }
    Ok((numbers, files))
}

/// A file that is polled.
struct PolledFile {
    /// `None` if the descriptor is not open.
    file: Option<Arc<OpenFile>>,
    wanted: PollEvents,
    found: PollEvents,
}

impl PolledFile {
    fn new(file: Option<Arc<OpenFile>>, wanted: PollEvents) -> Self {
        Self { file, wanted, found: PollEvents::empty() }
    }
}

/// Waits until a file is ready. Returns the number of ready files; 0 at the timeout.
///
/// # Errors
/// `EINTR`, `ENOMEM`.
fn wait_for_any(files: &mut [PolledFile], timeout: Timeout) -> Result<usize, Errno> {
    let ready = poll_all(files);
    if ready > 0 || timeout.has_passed() {
        return Ok(ready);
    }
    let thread = sched::current();
    let mut open: Vec<Arc<OpenFile>> = with_capacity(files.len())?;
    open.extend(files.iter().filter_map(|file| file.file.clone()));
    let mut watches = with_capacity(open.len())?;
    let mut is_sampled = false;
    for file in &open {
        match file.file().watched() {
            Some(watched) => watches.push(Watch::new(watched, &thread)?),
            None => is_sampled = true,
        }
    }
    loop {
        let ready = poll_all(files);
        if ready > 0 || timeout.has_passed() {
            return Ok(ready);
        }
        let sample = is_sampled.then(|| sched::time::now() + SAMPLE_INTERVAL_NS);
        readiness::sleep(timeout.deadline().into_iter().chain(sample).min())?;
    }
}

/// Polls all files, and returns the number of ready files.
fn poll_all(files: &mut [PolledFile]) -> usize {
    /// The files polled before the thread may be preempted.
    const BATCH: usize = 256;
    let mut ready = 0;
    for batch in files.chunks_mut(BATCH) {
        for polled in &mut *batch {
            let events = polled.file.as_ref().map_or(PollEvents::NVAL, |file| file.file().poll());
            polled.found = events & polled.wanted;
            ready += usize::from(!polled.found.is_empty());
        }
        if batch.len() == BATCH {
            sched::yield_if_slice_ended();
        }
    }
    ready
}

/// # Errors
/// `ENOMEM`.
fn with_capacity<T>(count: usize) -> Result<Vec<T>, Errno> {
    let mut list = Vec::new();
    if debug::fail_point(FailPoint::Heap) {
        return Err(Errno::ENOMEM);
    }
    list.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    Ok(list)
}

/// # Errors
/// `ENOMEM`.
fn zeroed<T: FromZeros + Clone>(count: usize) -> Result<Vec<T>, Errno> {
    let mut list = with_capacity(count)?;
    list.resize(count, T::new_zeroed());
    Ok(list)
}
