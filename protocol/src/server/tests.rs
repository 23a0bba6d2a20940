mod channels;
mod device;
mod directory;
mod harness;
mod links;
mod pushes;
mod sessions;
mod whole;
