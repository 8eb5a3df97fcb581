//! Checks the output of `dma.trace` against the demonstration's claims.

use std::collections::BTreeMap;

/// One event, as `dma: KIND dev=.. sid=.. iova=.. len=0x.. attrs=.. chunks=N`.
#[derive(Debug)]
struct TraceEvent<'a> {
    kind: &'a str,
    len: u64,
    chunks: usize,
    /// Address and length of each chunk line that follows.
    runs: Vec<(u64, u64)>,
}

/// The demonstration's buffer, and the first part of it that is attached.
const BUFFER: u64 = 512 << 20;
const PART: u64 = 128 << 20;
/// The start of highmem on `virt` with `lowmem=256M`.
const HIGHMEM: u64 = 0x5000_0000;

/// The failures of the demonstration's trace: the buffer must be allocated, its first attachment must be a
/// part of it, scattered over highmem, and everything must be freed at the end.
pub fn mosaic(console: &str) -> Vec<String> {
    let events = match read(console) {
        Ok(events) => events,
        Err(failure) => return vec![failure],
    };
    let mut failures = Vec::new();
    if !events.iter().any(|event| event.kind == "alloc" && event.len == BUFFER) {
        failures.push(format!("no buffer of {BUFFER:#x} bytes"));
    }
    match events.iter().find(|event| event.kind == "attach") {
        Some(first) => attachment(first, &mut failures),
        None => failures.push("no attachment".into()),
    }
    balanced(&events, "alloc", "free", &mut failures);
    balanced(&events, "attach", "detach", &mut failures);
    failures
}

fn read(console: &str) -> Result<Vec<TraceEvent<'_>>, String> {
    let mut events: Vec<TraceEvent<'_>> = Vec::new();
    for line in console.lines() {
        if let Some(chunk) = line.strip_prefix("dma:   chunk ") {
            let run = number(chunk, "pa").zip(number(chunk, "len")).ok_or(format!("unreadable: {line}"))?;
            let attachment = events.last_mut().filter(|event| event.kind == "attach");
            attachment.ok_or(format!("a chunk line that follows no attachment: {line}"))?.runs.push(run);
        } else if let Some(rest) = line.strip_prefix("dma: ") {
            events.push(event(rest).ok_or(format!("unreadable: {line}"))?);
        }
    }
    Ok(events)
}

fn event(rest: &str) -> Option<TraceEvent<'_>> {
    let all = ["dev", "sid", "iova", "len", "attrs", "chunks"];
    let keys = rest.split_whitespace().skip(1).map(|word| word.split('=').next().unwrap_or(word));
    (keys.eq(all)).then_some(())?;
    let chunks = value(rest, "chunks")?.parse().ok()?;
    Some(TraceEvent {
        kind: rest.split_whitespace().next()?,
        len: number(rest, "len")?,
        chunks,
        runs: Vec::new(),
    })
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(line: &str, key: &str) -> Option<u64> {
    u64::from_str_radix(value(line, key)?.strip_prefix("0x")?, 16).ok()
}

fn attachment(first: &TraceEvent<'_>, failures: &mut Vec<String>) {
    let mut expect = |holds: bool, failure: String| {
        if !holds {
            failures.push(failure);
        }
    };
    let total: u64 = first.runs.iter().map(|run| run.1).sum();
    let jumps = first.runs.windows(2).filter(|pair| pair[0].0 + pair[0].1 != pair[1].0).count();
    expect(first.len == PART, format!("the first attachment has {:#x} bytes", first.len));
    expect(first.runs.len() == first.chunks, format!("{} of {} chunk lines", first.runs.len(), first.chunks));
    expect(total == first.len, format!("the chunks have {total:#x} bytes, the attachment {:#x}", first.len));
    expect(jumps >= 25, format!("only {jumps} physical discontinuities"));
    for (pa, len) in &first.runs {
        expect(
            len.is_power_of_two() && pa.is_multiple_of(*len),
            format!("chunk {pa:#x}+{len:#x} is not aligned"),
        );
        expect(*pa >= HIGHMEM, format!("chunk {pa:#x}+{len:#x} is in lowmem"));
    }
}

/// For each size, as many bytes must be freed as were allocated.
fn balanced(events: &[TraceEvent<'_>], take: &str, give: &str, failures: &mut Vec<String>) {
    let mut open = BTreeMap::<u64, i64>::new();
    for event in events {
        let change = i64::from(event.kind == take) - i64::from(event.kind == give);
        *open.entry(event.len).or_default() += change;
    }
    let odd = open.iter().filter(|(_, count)| **count != 0);
    failures.extend(odd.map(|(len, count)| format!("{count} more {take} than {give} of {len:#x} bytes")));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trace of the life of a buffer of 256 chunks of 2 MiB, every second 2 MiB of highmem, of which the
    /// first quarter is attached.
    fn good() -> String {
        let line = |kind: &str, len, chunks| {
            format!("dma: {kind} dev=00:01.0 sid=0x8 iova=0x400000 len={len:#x} attrs=0 chunks={chunks}\n")
        };
        let (buffer, part) = (|kind| line(kind, BUFFER, 256), |kind| line(kind, PART, 64));
        let chunks: String = (0..64u64)
            .map(|n| format!("dma:   chunk pa={:#x} len=0x200000\n", HIGHMEM + n * 0x40_0000))
            .collect();
        [buffer("alloc"), "other\n".into(), part("attach"), chunks, part("detach"), buffer("free")].concat()
    }

    #[test]
    fn a_scattered_and_freed_buffer_passes() {
        assert_eq!(mosaic(&good()), [""; 0]);
    }

    #[test]
    fn each_defect_of_a_trace_is_reported() {
        let table = [
            ("no attachment", good().replace("attach", "mmap"), "follows no attachment"),
            ("an empty console", String::new(), "no attachment"),
            (
                "a chunk missing",
                good().replacen("dma:   chunk pa=0x50000000 len=0x200000\n", "", 1),
                "63 of 64 chunk",
            ),
            ("a small buffer", good().replace("0x20000000", "0x10000000"), "no buffer of 0x20000000"),
            (
                "a small part",
                good().replace("len=0x8000000", "len=0x1000"),
                "the first attachment has 0x1000",
            ),
            ("a chunk in lowmem", good().replace("pa=0x50000000", "pa=0x4fe00000"), "is in lowmem"),
            ("a misaligned chunk", good().replace("pa=0x50000000", "pa=0x50001000"), "is not aligned"),
            ("a leak", good().replace("dma: free", "dma: mmap"), "1 more alloc than free of 0x20000000"),
            ("a leaked attachment", good().replace("dma: detach", "dma: mmap"), "1 more attach than detach"),
            ("another format", good().replace("attrs=0 ", ""), "unreadable"),
        ];
        for (defect, console, failure) in table {
            let seen = mosaic(&console);
            assert!(seen.iter().any(|line| line.contains(failure)), "{defect}: {seen:?}");
        }
    }

    #[test]
    fn a_contiguous_buffer_fails() {
        let mut console = good();
        for n in 0..64u64 {
            console = console.replace(
                &format!("pa={:#x} ", HIGHMEM + n * 0x40_0000),
                &format!("pa={:#x} ", HIGHMEM + (n + 512) * 0x20_0000),
            );
        }
        assert!(
            mosaic(&console).iter().any(|line| line == "only 0 physical discontinuities"),
            "{:?}",
            mosaic(&console)
        );
    }
}
