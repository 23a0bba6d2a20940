//! Writes what a corpus begins with: `cargo run -p qpc-sim --example seeds -- FOLDER` makes a folder of inputs in
//! FOLDER for each target.

use std::path::PathBuf;
use std::{env, fs, io};

use qpc_protocol::id::Digest;
use qpc_sim::fuzz::{TARGETS, seeds};

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map_or_else(|| PathBuf::from("fuzz/found"), PathBuf::from);
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for seed in seeds(target.name) {
            fs::write(folder.join(Digest::of(&[&seed]).to_string()), seed)?;
        }
    }
    Ok(())
}
