//! Work for several kernel threads at a time.

use super::PATIENCE_NS;
use crate::sched;
use crate::sched::{Thread, Waiters};
use crate::sync::SpinLock;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

struct Team<R> {
    results: SpinLock<Vec<R>>,
    done: Waiters,
}

/// Runs `work` in `count` threads, numbered from 0, and returns what they found once all have ended and their stacks
/// are free again.
pub fn run_each<R: Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> R + Send + Sync + 'static,
) -> Result<Vec<R>, String> {
    let team = Arc::new(Team { results: SpinLock::new(Vec::with_capacity(count)), done: Waiters::new() });
    let work = Arc::new(work);
    let mut threads = Vec::with_capacity(count);
    for thread in 0..count {
        let (team, work) = (team.clone(), work.clone());
        let run = move || {
            let result = work(thread);
            drop(work);
            team.results.lock().push(result);
            team.done.wake_all();
        };
        let spawned = sched::spawn("rig", run);
        threads.push(spawned.map_err(|error| format!("thread {thread} of {count}: {error:?}"))?);
    }
    let all = || (team.results.lock().len() == count).then_some(());
    team.done.wait_until(None, all).map_err(|error| format!("{error:?}"))?;
    wait_for_end(&threads);
    Ok(core::mem::take(&mut *team.results.lock()))
}

/// Runs `work` on another CPU, since this one does nothing but wait. `None` when that takes too long.
pub fn elsewhere<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let result = Arc::new(SpinLock::new(None));
    let theirs = result.clone();
    let thread = sched::spawn("selftest", move || *theirs.lock() = Some(work())).ok()?;
    let deadline = sched::time::now() + PATIENCE_NS;
    while result.lock().is_none() && sched::time::now() < deadline {
        arch::cpu::yield_now();
    }
    wait_for_end(&[thread]);
    result.lock().take()
}

/// Waits until nothing is left of the threads: the scheduler lets go of one last of all, when it has freed the stack.
fn wait_for_end(threads: &[Arc<Thread>]) {
    while threads.iter().any(|thread| Arc::strong_count(thread) > 1) {
        sched::yield_now();
    }
}
