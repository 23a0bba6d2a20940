//! Whoever is between the machines, and the server's operator: frames and bytes changed on their way.

use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::Frame;

use super::World;
use super::link::Pipe;

/// Sees every frame between a device and the server (`up`: to the server), and says what arrives in its place.
pub type Liar = Box<dyn FnMut(usize, bool, Frame) -> Vec<Frame>>;

/// Changes the bytes that are about to arrive at the server (`up`) or at a device.
pub type Garbler = Box<dyn FnMut(usize, bool, &mut Vec<u8>)>;

impl World {
    /// Lets the liar at what has arrived: how many bytes it took, if bytes are to be taken from what it told.
    pub(super) fn lie(&mut self, device: usize, pipe: &mut Pipe, up: bool) -> Option<usize> {
        if self.liar.is_none() && pipe.decoder.held() == 0 && pipe.told.is_empty() {
            return None;
        }
        let bytes: Vec<u8> = pipe.bytes.drain(..).collect();
        let mut left = bytes.as_slice();
        while let Some(frame) = pipe.decoder.next(&mut left).expect("machines send frames") {
            let frames = match &mut self.liar {
                Some(liar) => liar(device, up, frame),
                None => vec![frame],
            };
            let mut told = Vec::new();
            frames.iter().for_each(|frame| encode(frame, &mut told));
            pipe.told.extend(told);
        }
        Some(bytes.len())
    }
}
