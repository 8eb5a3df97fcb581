//! Readiness of sockets and pipes, and the waker, with mio.

use mio::net::UnixStream;
use mio::unix::pipe;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(8);
    let (mut one, mut other) = UnixStream::pair()?;
    let (mut sender, mut receiver) = pipe::new()?;
    poll.registry().register(&mut other, Token(1), Interest::READABLE)?;
    poll.registry().register(&mut receiver, Token(2), Interest::READABLE)?;
    let waker = std::sync::Arc::new(Waker::new(poll.registry(), Token(3))?);

    poll.poll(&mut events, Some(Duration::from_millis(10)))?;
    println!("idle: {}", events.iter().count());
    one.write_all(b"socket")?;
    sender.write_all(b"pipe")?;
    let remote = waker.clone();
    let thread = thread::spawn(move || remote.wake());
    let mut seen = [false; 4];
    while seen != [false, true, true, true] {
        poll.poll(&mut events, None)?;
        for event in &events {
            seen[event.token().0] = true;
        }
    }
    thread.join().expect("the thread ends")?;
    println!("ready: {seen:?}");
    let mut bytes = [0; 16];
    println!("read: {} {}", other.read(&mut bytes)?, receiver.read(&mut bytes)?);
    let empty = other.read(&mut bytes).err().map(|error| error.kind());
    println!("empty: {}", empty == Some(ErrorKind::WouldBlock));
    drop((one, sender));
    poll.poll(&mut events, None)?;
    let closed = events.iter().filter(|event| event.is_read_closed()).count();
    println!("closed: {}", closed >= 1);
    Ok(())
}
