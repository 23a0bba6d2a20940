mod device;
mod harness;
mod sessions;
