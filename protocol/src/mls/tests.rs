//! Groups of several devices in memory.

mod ahead;
mod bytes;
mod cost;
mod epochs;
mod guards;
mod hostile;
mod keys;
mod leaves;
mod life;
mod once;
mod random;
mod records;
mod rejoin;
mod revoked;
mod same;
mod unusable;
mod world;
