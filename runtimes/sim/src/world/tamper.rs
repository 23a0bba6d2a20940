//! Whoever is between the machines, and the server's operator: frames and bytes changed on their way.

use std::time::Duration;

use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::Frame;

use super::World;
use super::link::Pipe;

/// Sees every frame between a device and the server (`up`: to the server), and says what arrives in its place.
pub type Liar = Box<dyn FnMut(usize, bool, Frame) -> Vec<Frame>>;

/// Says of every frame that a liar has told for how long it is held back. What follows it does not wait.
pub type Delayer = Box<dyn FnMut(usize, bool, &Frame) -> Duration>;

/// Changes the bytes that are about to arrive at the server (`up`) or at a device.
pub type Garbler = Box<dyn FnMut(usize, bool, &mut Vec<u8>)>;

impl World {
    /// Lets the liar at what has arrived: how many bytes it took, if bytes are to be taken from what it told.
    pub(super) fn lie(&mut self, device: usize, pipe: &mut Pipe, up: bool) -> Option<usize> {
        let over = pipe.decoder.held() == 0 && pipe.told.is_empty() && pipe.held.is_empty();
        if self.liar.is_none() && over {
            return None;
        }
        let now = self.now.mono;
        for (_, due) in pipe.held.extract_if(.., |(until, _)| *until <= now) {
            pipe.told.extend(due);
        }
        let bytes: Vec<u8> = pipe.bytes.drain(..).collect();
        let mut left = bytes.as_slice();
        while let Some(frame) = pipe.decoder.next(&mut left).expect("machines send frames") {
            let frames = match &mut self.liar {
                Some(liar) => liar(device, up, frame),
                None => vec![frame],
            };
            for frame in &frames {
                let mut told = Vec::new();
                encode(frame, &mut told);
                let late = self.delayer.as_mut().map(|delayer| delayer(device, up, frame));
                match late.filter(|late| !late.is_zero()) {
                    Some(late) => pipe.held.push((now + late, told)),
                    None => pipe.told.extend(told),
                }
            }
        }
        Some(bytes.len())
    }
}
