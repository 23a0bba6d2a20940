mod channels;
mod device;
mod harness;
mod sessions;
