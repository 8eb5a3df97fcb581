//! Work for several kernel threads at a time.

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
        let spawned = sched::spawn("selftest", run);
        threads.push(spawned.map_err(|error| format!("thread {thread} of {count}: {error:?}"))?);
    }
    let all = || (team.results.lock().len() == count).then_some(());
    team.done.wait_until(None, all).map_err(|error| format!("{error:?}"))?;
    wait_for_end(&threads);
    Ok(core::mem::take(&mut *team.results.lock()))
}

/// The scheduler lets go of a thread last of all, when it has freed the stack.
fn wait_for_end(threads: &[Arc<Thread>]) {
    while threads.iter().any(|thread| Arc::strong_count(thread) > 1) {
        sched::yield_now();
    }
}
