//! Parallel loops and channels with rayon and crossbeam.

use crossbeam::channel::{bounded, select, tick, unbounded};
use rayon::prelude::*;
use std::time::Duration;

fn main() {
    let sum: u64 = (0..1_000_000u64).into_par_iter().map(|n| n * n % 7).sum();
    println!("sum: {sum}");
    let mut numbers: Vec<u32> = (0..100_000).map(|n: u32| n.wrapping_mul(2_654_435_761)).collect();
    numbers.par_sort_unstable();
    println!("sorted: {}", numbers.windows(2).all(|pair| pair[0] <= pair[1]));
    println!("threads: {}", rayon::current_num_threads());

    let (send, receive) = bounded(0);
    let (done, finished) = unbounded();
    crossbeam::scope(|scope| {
        for _ in 0..4 {
            let (receive, done) = (receive.clone(), done.clone());
            scope.spawn(move |_| {
                let mut sum = 0;
                while let Ok(n) = receive.recv() {
                    sum += n;
                }
                done.send(sum).expect("the receiver lives");
            });
        }
        (0..1000u64).for_each(|n| send.send(n).expect("a worker lives"));
        drop(send);
    })
    .expect("no worker panics");
    println!("channel: {}", finished.iter().take(4).sum::<u64>());

    let ticker = tick(Duration::from_millis(5));
    let (_keep, never) = bounded::<()>(1);
    let mut ticks = 0;
    while ticks < 3 {
        select! {
            recv(ticker) -> _ => ticks += 1,
            recv(never) -> _ => println!("never"),
        }
    }
    println!("ticks: {ticks}");
    let caught = std::panic::catch_unwind(|| panic!("expected")).is_err();
    println!("caught: {caught}, joined: {:?}", rayon::join(|| 1, || 2));
}
