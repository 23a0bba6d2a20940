//! Frames on a link: Cap'n Proto messages in the standard stream framing, one after another.
//!
//! A frame is a segment table (number of segments less one, each segment's length in words, four bytes of
//! zero padding if needed, all 32 bits little endian) and the segments themselves
//! (<https://capnproto.org/encoding.html#serialization-over-a-stream>).
//!
//! The machine that owns a link feeds its [`Decoder`] so:
//!
//! ```
//! # use qpc_protocol::{error::PeerFault, wire::{frame::Decoder, message::Frame}};
//! # fn on_bytes(decoder: &mut Decoder, mut bytes: &[u8], busy: impl Fn() -> bool, mut act: impl FnMut(Frame))
//! # -> Result<(), PeerFault> {
//! // On Input::Bytes(link, bytes), and with no bytes when a limit has eased:
//! while !busy() {
//!     match decoder.next(&mut bytes)? {
//!         Some(frame) => act(frame),
//!         None => return Ok(()), // everything is taken: ask for the link's next bytes
//!     }
//! }
//! decoder.push(bytes); // over a limit: keep the rest, ask for no more bytes
//! # Ok(())
//! # }
//! ```

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};

use super::generated::qpc_capnp as schema;
use super::message::Frame;
use super::size::{self, WORD};
use super::{read, write};
use crate::error::PeerFault;
use crate::limits;

/// Length of the segment table of a frame with one segment.
const SHORT_TABLE: usize = 8;
/// Behind so many bytes of the first segment the [version] is known: a frame that comes in pieces is looked at there,
/// and not gathered any further if it is of another.
const VERSION_ENDS: usize = 10;

/// Bytes of [`encode`]'s output for this frame, exactly.
pub fn encoded_len(frame: &Frame) -> usize {
    SHORT_TABLE + size::frame(frame) * WORD
}

/// Appends a frame to `out`.
///
/// Texts for people that are too long (the detail of a failure, the version of a server) are cut. Every other
/// bound of the schema is the caller's to keep: the receiver closes the link over it.
pub fn encode(frame: &Frame, out: &mut Vec<u8>) {
    let words = u32::try_from(size::frame(frame)).unwrap_or(u32::MAX);
    let mut builder = Builder::new(HeapAllocator::new().first_segment_words(words));
    write::frame(frame, builder.init_root::<schema::frame::Builder<'_>>());

    // One segment, because the first was made large enough; but correct for any number.
    let segments = builder.get_segments_for_output();
    let table = table_len(segments.len());
    let start = out.len();
    out.reserve(table + segments.iter().map(|segment| segment.len()).sum::<usize>());
    let lengths = segments.iter().map(|segment| segment.len() / WORD);
    for number in core::iter::once(segments.len() - 1).chain(lengths) {
        out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }
    out.resize(start + table, 0);
    for segment in segments.iter() {
        out.extend_from_slice(segment);
    }
}

/// Length of the table of so many segments, padding included.
const fn table_len(segments: usize) -> usize {
    (4 + 4 * segments).next_multiple_of(WORD)
}

/// Turns the bytes of one direction of one link into frames, however they are cut into chunks.
///
/// A frame that lies whole in one chunk is read in place; of any other, what has arrived is gathered. The
/// gathered bytes never outgrow the frame limit plus what is [pushed](Self::push), and memory is taken as bytes
/// arrive, never because a frame claims to be long. Work is linear in the bytes received.
#[derive(Debug)]
pub struct Decoder {
    /// Bytes gathered; those before `start` are done with.
    gathered: Vec<u8>,
    start: usize,
    /// How many bytes the frame at `start` needs, as far as is known.
    needed: usize,
    most: usize,
    fault: Option<PeerFault>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream, for frames of at most [`FRAME_BYTES`](limits::FRAME_BYTES).
    pub fn new() -> Self {
        Self { gathered: Vec::new(), start: 0, needed: 0, most: limits::FRAME_BYTES, fault: None }
    }

    /// From here on frames of at most `most` bytes, and never above [`FRAME_BYTES`](limits::FRAME_BYTES): a
    /// stranger needs small ones only.
    pub fn limit(&mut self, most: usize) {
        self.most = most.min(limits::FRAME_BYTES);
    }

    /// The next frame: from what was gathered, then from `input`, which is left with what follows the frame.
    ///
    /// `None` means that all of `input` has been taken and more is needed.
    ///
    /// # Errors
    ///
    /// The peer sent no frame of this version, or broke a bound. The stream cannot be read on: every later call
    /// gives the same fault.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, PeerFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let outcome = if self.start == self.gathered.len() {
            self.in_place(input)
        } else {
            self.piecewise(input)
        };
        if let Err(fault) = outcome {
            self.fault = Some(fault);
            self.reset(0);
        }
        outcome
    }

    /// Takes bytes without looking at them, when the machine is over a limit of its own in the middle of a chunk.
    pub fn push(&mut self, input: &[u8]) {
        if self.fault.is_none() && !input.is_empty() {
            self.gather(input, input.len());
        }
    }

    /// How many bytes are held. When a stream ends, anything but zero means that it was cut off in the middle of a
    /// frame.
    pub fn held(&self) -> usize {
        self.gathered.len() - self.start
    }

    fn in_place(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, PeerFault> {
        match measure(input, self.most)? {
            Extent::Whole(len) => {
                let (bytes, rest) = input.split_at(len);
                *input = rest;
                decode(bytes).map(Some)
            }
            Extent::Needs(len) => {
                self.gather(input, len);
                *input = &[];
                Ok(None)
            }
        }
    }

    fn piecewise(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, PeerFault> {
        loop {
            if self.held() >= self.needed {
                match measure(&self.gathered[self.start..], self.most)? {
                    Extent::Whole(len) => {
                        let frame = decode(&self.gathered[self.start..self.start + len]);
                        self.reset(self.start + len);
                        return frame.map(Some);
                    }
                    Extent::Needs(len) => self.needed = len,
                }
            }
            if input.is_empty() {
                return Ok(None);
            }
            // No more than this frame needs: what follows it is read in place.
            let (bytes, rest) = input.split_at(input.len().min(self.needed - self.held()));
            self.gather(bytes, self.needed);
            *input = rest;
        }
    }

    /// Appends to the gathered bytes; `needed` says how long they will get at least.
    fn gather(&mut self, bytes: &[u8], needed: usize) {
        self.gathered.drain(..self.start);
        self.start = 0;
        let len = self.gathered.len() + bytes.len();
        if len > self.gathered.capacity() {
            // Doubling keeps copies linear; claims alone reserve nothing.
            let wanted = len.max(needed.min(2 * self.gathered.capacity()));
            self.gathered.reserve_exact(wanted - self.gathered.len());
        }
        self.gathered.extend_from_slice(bytes);
    }

    /// Is done with the gathered bytes before `start`.
    fn reset(&mut self, start: usize) {
        self.start = start;
        self.needed = 0;
        if self.fault.is_some() || start == self.gathered.len() {
            self.start = 0;
            if self.fault.is_some() || self.gathered.capacity() > limits::READ_CHUNK {
                self.gathered = Vec::new();
            } else {
                self.gathered.clear();
            }
        }
    }
}

/// How far a frame reaches.
enum Extent {
    /// All of it is there: so many bytes.
    Whole(usize),
    /// At least so many bytes are needed to say more.
    Needs(usize),
}

/// The length of the frame at the start of `bytes`, refused as soon as its beginning shows that it must be.
fn measure(bytes: &[u8], most: usize) -> Result<Extent, PeerFault> {
    let Some(last) = number(bytes, 0) else { return Ok(Extent::Needs(4)) };
    if last as usize >= limits::FRAME_SEGMENTS {
        return Err(PeerFault::Malformed("segment count"));
    }
    let segments = last as usize + 1;
    let table = table_len(segments);
    if bytes.len() < table {
        return Ok(Extent::Needs(table));
    }
    let lengths = (1..=segments).filter_map(|at| number(bytes, at));
    let len = lengths.fold(table as u64, |sum, words| sum + u64::from(words) * WORD as u64);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > most {
        return Err(PeerFault::TooLarge);
    }
    if segments.is_multiple_of(2) && number(bytes, segments + 1) != Some(0) {
        return Err(PeerFault::Malformed("segment table padding"));
    }
    let first = number(bytes, 1).unwrap_or(0) as usize;
    if first == 0 {
        return Err(PeerFault::Malformed("no root"));
    }
    let root = &bytes[table..bytes.len().min(table + first * WORD)];
    if let Some(version) = version(root)
        && version != limits::WIRE_VERSION
    {
        return Err(PeerFault::Version(version));
    }
    let shown = len.min(table + VERSION_ENDS);
    Ok(match bytes.len() {
        have if have < shown => Extent::Needs(shown),
        have if have < len => Extent::Needs(len),
        _ => Extent::Whole(len),
    })
}

/// The 32-bit number at a place of the segment table.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(4 * at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The version of a frame whose first segment begins so, if its root lies where every encoder puts it: right
/// behind its pointer. A root elsewhere is looked at when the frame is whole.
fn version(segment: &[u8]) -> Option<u16> {
    let (pointer, root) = segment.split_first_chunk::<4>()?;
    // A struct pointer: two zero bits, then the offset (https://capnproto.org/encoding.html#structs).
    let in_place = *pointer == [0; 4];
    let data_words = u16::from_le_bytes(*root.first_chunk()?);
    let version = root.get(4..)?.first_chunk()?;
    (in_place && data_words > 0).then(|| u16::from_le_bytes(*version))
}

/// Reads a whole frame.
fn decode(bytes: &[u8]) -> Result<Frame, PeerFault> {
    let count = number(bytes, 0).unwrap_or(0) as usize + 1;
    let mut rest = bytes.get(table_len(count)..).unwrap_or_default();
    if count == 1 {
        check_tight(rest)?;
        return read_segments(&[rest]);
    }
    let mut segments: [&[u8]; limits::FRAME_SEGMENTS] = [&[]; limits::FRAME_SEGMENTS];
    for (at, segment) in (1..).zip(segments.iter_mut().take(count)) {
        let len = number(bytes, at).unwrap_or(0) as usize * WORD;
        (*segment, rest) = rest.split_at_checked(len).unwrap_or_default();
    }
    read_segments(segments.get(..count).unwrap_or_default())
}

fn read_segments(segments: &[&[u8]]) -> Result<Frame, PeerFault> {
    let words = segments.iter().map(|segment| segment.len()).sum::<usize>() / WORD;
    let reader = Reader::new(segments, options(words));
    read::frame(reader.get_root().map_err(read::why)?)
}

/// Refuses a lone segment with words that no pointer reaches or that several reach.
fn check_tight(segment: &[u8]) -> Result<(), PeerFault> {
    let words = segment.len() / WORD;
    let segments: &[&[u8]] = &[segment];
    let reader = Reader::new(segments, options(words));
    let root = reader.get_root::<schema::frame::Reader<'_>>().map_err(read::why)?;
    let reached = root.total_size().map_err(read::why)?;
    if reached.word_count + 1 != words as u64 || reached.cap_count > 0 {
        return Err(PeerFault::Malformed("words that nothing points to"));
    }
    Ok(())
}

/// Every word may be read once (capnp CVE-2015-2312: many pointers to one place).
fn options(words: usize) -> ReaderOptions {
    ReaderOptions { traversal_limit_in_words: Some(words), nesting_limit: limits::FRAME_NESTING }
}

#[cfg(test)]
pub(crate) mod tests;
