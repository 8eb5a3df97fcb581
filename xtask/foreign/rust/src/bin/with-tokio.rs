//! Tasks, timers, channels, files, sockets, signals and child processes on tokio's runtime.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let tasks: Vec<_> = (0..100u64)
        .map(|n| {
            tokio::spawn(async move {
                sleep(Duration::from_millis(n % 10)).await;
                n
            })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await?;
    }
    println!("tasks: {sum}");

    let (send, mut receive) = mpsc::channel(4);
    let producer = tokio::spawn(async move {
        for n in 0..50 {
            send.send(n).await.expect("the receiver lives");
        }
    });
    let mut received = 0;
    while let Some(n) = receive.recv().await {
        received += n;
    }
    producer.await?;
    println!("channel: {received}");

    let (mut one, mut other) = UnixStream::pair()?;
    let echo = tokio::spawn(async move {
        let mut bytes = Vec::new();
        other.read_to_end(&mut bytes).await.map(|_| bytes.len())
    });
    one.write_all(&vec![7; 300_000]).await?;
    drop(one);
    println!("socket: {}", echo.await??);

    tokio::fs::write("/tmp/tokio", b"content").await?;
    let read = tokio::fs::read("/tmp/tokio").await?;
    tokio::fs::remove_file("/tmp/tokio").await?;
    println!("file: {}", String::from_utf8_lossy(&read));

    let output = Command::new("/bin/busybox").args(["echo", "from a child"]).output().await?;
    print!("child: {}", String::from_utf8_lossy(&output.stdout));
    let status = Command::new("/bin/busybox").args(["sh", "-c", "exit 7"]).status().await?;
    println!("status: {:?}", status.code());
    let mut child = Command::new("/bin/busybox").args(["sleep", "100"]).spawn()?;
    child.kill().await?;
    println!("killed: {:?}", child.wait().await?.code());

    let mut usr1 = signal(SignalKind::user_defined1())?;
    let own = std::process::id().to_string();
    let _ = Command::new("/bin/busybox").args(["kill", "-USR1", &own]).status().await?;
    println!("signal: {:?}", timeout(Duration::from_secs(5), usr1.recv()).await.is_ok());

    let late = timeout(Duration::from_millis(20), sleep(Duration::from_secs(60))).await;
    println!("timeout: {}", late.is_err());
    let (send, receive) = oneshot::channel();
    let blocking = tokio::task::spawn_blocking(move || send.send(std::thread::current().name().is_some()));
    println!("blocking: {:?} {:?}", receive.await?, blocking.await?);
    Ok(())
}
