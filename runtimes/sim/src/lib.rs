//! quicprochat in a simulated world: the same client and server machines as everywhere, over disks, links and clocks that
//! are values, everything from one seed.

pub mod crash;
pub mod recorder;
pub mod takeover;
pub mod world;
