//! The machines through their public surface, in a world in memory (`qpc_sim::world`): one program of tests, a module
//! for each subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "not the core")]

mod answers;
mod backups;
mod contention;
mod conversation;
mod damage;
mod devices;
mod direct;
mod early;
mod envelopes;
mod equivocation;
mod forged;
mod founders;
mod garbage;
mod hostile;
mod kept;
mod large;
mod left;
mod lies;
mod life;
mod lifecycle;
mod mallory;
mod names;
mod noise;
mod packages;
mod parted;
mod profile;
mod rejoin;
mod reset;
mod restarts;
mod secrets;
mod shared;
mod stranger;
mod succession;
mod talk;
mod thieves;
mod trust;
mod unopened;
mod usurpers;
