//! From a length to chunks: the largest first, high memory first, single frames when memory is fragmented.

use crate::frames::{Frames, OutOfHeap};
use crate::owned::{OwnedChunk, OwnedPages};
use crate::source::{FrameSource, Reach};
use addr::Order;

/// What frames somebody wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// How many.
    pub frames: u64,
    /// No chunk is larger than this.
    pub largest: Order,
    /// Whether all frames must lie in one run. `largest` does not matter then.
    pub contiguous: bool,
    /// Where they may lie.
    pub reach: Reach,
}

impl Request {
    /// `frames` of any form, from anywhere.
    pub const fn new(frames: u64) -> Self {
        Self { frames, largest: Order::MAX, contiguous: false, reach: Reach::ANYWHERE }
    }

    /// The order of the chunk that [`take`] looks for first, if that alone is all that is wanted.
    #[inline]
    pub const fn one_chunk(&self) -> Option<Order> {
        match Order::fitting(self.frames) {
            Some(order) if order.frames() != self.frames => None,
            Some(order) if order.log2() > self.largest.log2() && !self.contiguous => None,
            order => order,
        }
    }
}

/// Why there are no frames. Everything is as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkError {
    /// A request for nothing.
    Nothing,
    /// A contiguous run longer than the largest chunk.
    TooLong {
        /// Frames asked for.
        wanted: u64,
    },
    /// Memory is full, within the request's reach, or has no such run.
    OutOfFrames {
        /// Frames asked for.
        wanted: u64,
        /// Frames that were found before the search ended.
        had: u64,
    },
    /// The heap has no room for the list of chunks.
    OutOfHeap,
}

impl From<OutOfHeap> for ChunkError {
    fn from(_: OutOfHeap) -> Self {
        Self::OutOfHeap
    }
}

/// Takes what `request` asks for.
///
/// The chunks come in falling order, so that each is naturally aligned within the buffer too: a mapping that starts
/// at a multiple of the largest chunk can use a block for every chunk that is big enough.
///
/// 1. Zone by zone, high first: a small chunk of high memory is better than a large one of low memory.
/// 2. In a zone from the largest order down, never up again: each order fails at most once.
/// 3. Chunks of the zones are merged by order.
///
/// # Errors
/// See [`ChunkError`]; all frames are back in `source`.
pub fn take(source: &mut impl FrameSource, request: &Request) -> Result<Frames, ChunkError> {
    let mut frames = Frames::new();
    take_into(source, request, &mut frames)?;
    Ok(frames)
}

/// [`take`] into a list where it stays: a list is large enough for moving it to cost more than a short search.
///
/// # Errors
/// As [`take`]; the list is empty.
pub fn take_into(
    source: &mut impl FrameSource,
    request: &Request,
    list: &mut Frames,
) -> Result<(), ChunkError> {
    debug_assert!(list.is_empty());
    if request.frames == 0 {
        return Err(ChunkError::Nothing);
    }
    if request.contiguous {
        return take_run(source, request, list);
    }
    take_from(source, request.reach.preferred(), request.frames, request.largest, list)?;
    if list.frames() < request.frames && request.reach != request.reach.preferred() {
        take_more(source, request.reach, request.frames - list.frames(), request.largest, list)?;
    }
    if list.frames() == request.frames {
        return Ok(());
    }
    let had = list.frames();
    list.give_back(source);
    Err(ChunkError::OutOfFrames { wanted: request.frames, had })
}

/// As many of the `wanted` frames as there are within `reach`, into an empty list. After an error it is empty again.
fn take_from(
    source: &mut impl FrameSource,
    reach: Reach,
    wanted: u64,
    largest: Order,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    let mut limit = Some(largest);
    while let Some(order) = limit.and_then(|limit| Some(limit.min(Order::fitting(wanted - list.frames())?))) {
        if limit == Some(Order::PAGE) {
            return take_pages(source, reach, wanted, list);
        }
        match source.take(order, reach) {
            Some(chunk) => push(source, list, chunk)?,
            None => limit = order.smaller(),
        }
    }
    Ok(())
}

/// The rest of [`take_from`], when there is nothing larger than single frames, or nothing larger is wanted.
fn take_pages(
    source: &mut impl FrameSource,
    reach: Reach,
    wanted: u64,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    while wanted > list.frames() {
        let count = (wanted - list.frames()).min(OwnedPages::RUN) as u32;
        let Some(pages) = source.take_pages(count, reach) else { break };
        list.push_pages(pages).map_err(|(rest, error)| {
            source.give_pages(rest);
            list.give_back(source);
            error
        })?;
    }
    Ok(())
}

/// [`take_from`], joined with what the list has.
fn take_more(
    source: &mut impl FrameSource,
    reach: Reach,
    wanted: u64,
    largest: Order,
    list: &mut Frames,
) -> Result<(), OutOfHeap> {
    let mut found = Frames::new();
    if let Err(error) = take_from(source, reach, wanted, largest, &mut found) {
        list.give_back(source);
        return Err(error);
    }
    *list = merge(source, core::mem::take(list), found)?;
    Ok(())
}

/// Appends the chunk, or gives everything back.
fn push(source: &mut impl FrameSource, list: &mut Frames, chunk: OwnedChunk) -> Result<(), OutOfHeap> {
    list.push(chunk).map_err(|(chunk, error)| {
        source.give(chunk);
        list.give_back(source);
        error
    })
}

/// Two falling lists as one.
fn merge(source: &mut impl FrameSource, mut a: Frames, mut b: Frames) -> Result<Frames, OutOfHeap> {
    if a.is_empty() {
        return Ok(b);
    }
    if b.is_empty() {
        return Ok(a);
    }
    let (mut a, mut b) = (a.drain().peekable(), b.drain().peekable());
    let mut merged = Frames::new();
    let mut result = Ok(());
    loop {
        let from_a = match (a.peek(), b.peek()) {
            (Some(a), Some(b)) => a.chunk().order() >= b.chunk().order(),
            (a, _) => a.is_some(),
        };
        let Some(chunk) = (if from_a { a.next() } else { b.next() }) else { break };
        match result {
            Ok(()) => result = push(source, &mut merged, chunk),
            Err(_) => source.give(chunk),
        }
    }
    result.map(|()| merged)
}

/// One run: the chunk that covers it, without the frames behind its end.
fn take_run(source: &mut impl FrameSource, request: &Request, list: &mut Frames) -> Result<(), ChunkError> {
    let wanted = request.frames;
    let order = Order::covering(wanted).ok_or(ChunkError::TooLong { wanted })?;
    let cover = source.take(order, request.reach).ok_or(ChunkError::OutOfFrames { wanted, had: 0 })?;
    let (run, tail) = cover.split_at(wanted);
    tail.for_each(|part| source.give(part));
    let mut result = Ok(());
    for part in run {
        match result {
            Ok(()) => result = push(source, list, part),
            Err(_) => source.give(part),
        }
    }
    Ok(result?)
}
