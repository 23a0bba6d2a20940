mod channels;
mod device;
mod directory;
mod harness;
mod links;
mod sessions;
