//! The words of the scenario language: every step that a world knows.

use crate::actors::{OF_MEMBERS, OF_SERVERS};

/// What a step is about; a seed draws how much of each it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A command of the application to its device's machine.
    Command,
    /// Something breaks, or is mended.
    Fault,
    /// Somebody is not honest.
    Hostile,
    /// Time passes, and what is due happens.
    Time,
}

/// One kind of step.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its word in a scenario's text.
    pub word: &'static str,
    /// What it is about.
    pub class: Class,
    /// How often it is drawn, before a seed changes that; 0: only by hand.
    pub weight: u32,
    /// The names of its numbers, in order.
    pub args: &'static [&'static str],
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $class:ident, $weight:literal, [$($arg:ident),*];)*) => {
        /// One step of a scenario. Its numbers are indexes, taken modulo what there is when it runs: devices, groups
        /// and accounts in the order in which they came to be. A step that does not apply then is passed over.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields are the numbers of the text form")]
        pub enum Step {
            $($(#[$doc])* $name { $($arg: u16),* },)*
        }

        impl Step {
            /// All kinds, in the order of their numbers.
            pub const KINDS: &'static [Kind] = &[$(Kind {
                word: $word,
                class: Class::$class,
                weight: $weight,
                args: &[$(stringify!($arg)),*],
            }),*];

            /// The step of that kind; missing numbers are 0, too many are passed over. `None`: no such kind.
            #[allow(unused_assignments, unused_variables, unused_mut, reason = "of the last kind, and of those without numbers")]
            pub fn new(kind: usize, numbers: &[u16]) -> Option<Self> {
                let mut at = 0;
                let mut numbers = numbers.iter().copied();
                $(
                    if kind == at {
                        return Some(Self::$name { $($arg: numbers.next().unwrap_or(0)),* });
                    }
                    at += 1;
                )*
                None
            }

            /// The number of its kind, and its numbers.
            #[allow(unused_assignments, reason = "of the last kind")]
            pub fn parts(self) -> (usize, Vec<u16>) {
                let mut at = 0;
                $(
                    if let Self::$name { $($arg),* } = self {
                        return (at, vec![$($arg),*]);
                    }
                    at += 1;
                )*
                (at, Vec::new())
            }
        }
    };
}

steps! {
    /// A new account on a device.
    Register = "register", Command, 2, [device];
    /// The device logs in to its account: for the first time, or again.
    Login = "login", Command, 4, [device];
    /// Ends the session.
    Logout = "logout", Command, 2, [device];
    /// Founds a group.
    Create = "create", Command, 3, [device, suite];
    /// Adds an account.
    Invite = "invite", Command, 14, [device, group, account];
    /// Removes an account.
    Remove = "remove", Command, 6, [device, group, account];
    /// Leaves.
    Leave = "leave", Command, 4, [device, group];
    /// New keys for the leaf.
    Update = "update", Command, 16, [device, group];
    /// A message.
    Send = "send", Command, 80, [device, group, bytes];
    /// All messages that were told so far are read.
    Ack = "ack", Command, 16, [device, group];
    /// The application shows this group now.
    Prefer = "prefer", Command, 1, [device, group];
    /// Comes back from outside.
    Rejoin = "rejoin", Command, 2, [device, group];
    /// Another generation.
    Reset = "reset", Command, 2, [device, group, suite];
    /// Another name of the group.
    Describe = "describe", Command, 4, [device, group];
    /// An account becomes an admin (1) or is none any more (0).
    Role = "role", Command, 5, [device, group, account, admin];
    /// The direct channel with an account.
    Direct = "direct", Command, 5, [device, account];
    /// Who is that?
    Lookup = "lookup", Command, 3, [device, account];
    /// Which devices has the own account?
    Devices = "devices", Command, 2, [device];
    /// Revokes another device of the own account.
    Revoke = "revoke", Command, 1, [device, other];
    /// A new key for the device.
    Rotate = "rotate", Command, 2, [device];
    /// How many key packages are left?
    Packages = "packages", Command, 2, [device];
    /// New key packages.
    Refresh = "refresh", Command, 2, [device];
    /// Is the server there?
    Ping = "ping", Command, 2, [device];
    /// Is it well?
    Health = "health", Command, 1, [device];
    /// Connects now.
    Connect = "connect", Command, 3, [device];
    /// Stays away until told otherwise.
    Disconnect = "disconnect", Command, 2, [device];
    /// Which messages did the server sign for?
    Proofs = "proofs", Command, 2, [device, group];
    /// Who is in the group?
    Members = "members", Command, 2, [device, group];
    /// The safety number was compared.
    Verify = "verify", Command, 2, [device, account];
    /// Another account behind a name is accepted.
    Accept = "accept", Command, 1, [device, account];
    /// A contact is forgotten.
    Forget = "forget", Command, 1, [device, account];
    /// Two devices compare what they have read.
    Compare = "compare", Command, 4, [device, group, other];
    /// Deletes the account.
    Delete = "delete", Command, 0, [device];

    /// A device is switched off without a word.
    Crash = "crash", Fault, 10, [device];
    /// It is at the n-th batch from now: before that is durable (0), before it is told so (1), or after what waited for
    /// it has left (2).
    CrashAt = "crash-at", Fault, 10, [device, batch, moment];
    /// It is switched on, from its disk.
    Start = "start", Fault, 24, [device];
    /// Its connection breaks.
    Cut = "cut", Fault, 10, [device];
    /// It has no network.
    Away = "away", Fault, 4, [device];
    /// It has one again.
    Back = "back", Fault, 8, [device];
    /// A link of it ends after so many more bytes to it (0), or from it (1): most often in the middle of a frame.
    CutAfter = "cut-after", Fault, 6, [device, up, after];
    /// Its connection breaks, and one end does not notice: itself (0), the server (1).
    HalfOpen = "half-open", Fault, 3, [device, end];
    /// Nothing passes between it and the server, and nobody is told.
    Part = "part", Fault, 3, [device];
    /// What waited since then arrives.
    Heal = "heal", Fault, 8, [device];
    /// Nothing passes between the server and anybody for so long, and nobody is told.
    PartServer = "part-server", Fault, 4, [seconds];
    /// What waited since then arrives.
    HealServer = "heal-server", Fault, 2, [];
    /// What it sends, and what it is sent, takes so long.
    Latency = "latency", Fault, 4, [device, ms];
    /// And up to so much longer, by chance.
    Jitter = "jitter", Fault, 4, [device, ms];
    /// Its links take so few bytes ahead of their reader from now on (0), or many (1).
    SlowReader = "slow-reader", Fault, 2, [device, fast];
    /// Its next connection has one link, or many.
    Transport = "transport", Fault, 2, [device, many];
    /// Its batches take so long to become durable.
    SlowDisk = "slow-disk", Fault, 4, [device, ms];
    /// Its disk refuses the next batch: full (0), failing (1).
    DiskFails = "disk-fails", Fault, 3, [device, how];
    /// It goes off, and a record of it is torn: of how far it is with a channel (0), of a group (1); or its store finds
    /// one that is not what it wrote (2). Then it is switched on. What cannot be begun with is put right.
    Damage = "damage", Fault, 0, [device, part];
    /// Its disk is copied.
    Backup = "backup", Fault, 3, [device];
    /// The copy is put in its place.
    Restore = "restore", Fault, 2, [device];
    /// Its calendar jumps so many hours ahead (0) or back (1) of the world's.
    Clock = "clock", Fault, 2, [device, hours, back];
    /// Its calendar stands still.
    ClockStops = "clock-stops", Fault, 1, [device];
    /// Its calendar is right again.
    ClockRight = "clock-right", Fault, 6, [device];
    /// The same for the server's.
    ServerClock = "server-clock", Fault, 1, [hours, back];
    /// The server's is right again.
    ServerClockRight = "server-clock-right", Fault, 4, [];
    /// The server is killed.
    Kill = "kill", Fault, 3, [];
    /// It is at its n-th transaction from now: at the moments of `crash-at`.
    KillAt = "kill-at", Fault, 4, [batch, moment];
    /// Its transactions take so long.
    ServerSlowDisk = "server-slow-disk", Fault, 3, [ms];
    /// The server is started.
    Serve = "serve", Fault, 12, [];
    /// The server's disk refuses the next transaction: full (0), failing (1).
    ServerDiskFails = "server-disk-fails", Fault, 3, [how];
    /// The server's disk is full (1) or has room again (0).
    ServerDisk = "server-disk", Fault, 4, [full];

    /// From now on the server lies to a device in this way, so many times.
    Lie = "lie", Hostile, 6, [device, way, times];
    /// From now on the server has two histories, and leads so many devices from this one on into the other.
    Fork = "fork", Hostile, 3, [device, devices];
    /// From now on a device sends the server what it should not, in this way, so many times.
    Misbehave = "misbehave", Hostile, 6, [device, way, times];
    /// A member floods a group with so many messages.
    Flood = "flood", Hostile, 2, [device, group, messages];
    /// From now on the path secrets of a device's commits are forged: they open for nobody (0), or are others (1).
    Forge = "forge", Hostile, 2, [device, how];
    /// Somebody copies a device's disk and goes on from it on a machine of their own, at the same time.
    Steal = "steal", Hostile, 1, [device];
    /// Everybody is honest again.
    Honest = "honest", Hostile, 6, [];

    /// What is due now happens.
    Run = "run", Time, 60, [];
    /// So many milliseconds pass.
    Pass = "pass", Time, 60, [ms];
    /// So many hours pass, in which everybody is asleep.
    Hours = "hours", Time, 1, [hours];
    /// So many days pass, in which everybody who is on wakes up for a minute now and then.
    Days = "days", Time, 3, [days];
    /// All faults end, all devices are on, and the world comes to rest; everything is checked.
    Calm = "calm", Time, 1, [];
}

impl Step {
    /// The same step with the number of a way as it is meant, so that it stays that one when others are added.
    pub(super) fn fitted(self) -> Self {
        match self {
            Self::Lie { device, way, times } => {
                Self::Lie { device, way: way % OF_SERVERS.len() as u16, times }
            }
            Self::Misbehave { device, way, times } => {
                Self::Misbehave { device, way: way % OF_MEMBERS.len() as u16, times }
            }
            step => step,
        }
    }

    /// Its kind.
    pub fn kind(self) -> Kind {
        Self::KINDS[self.parts().0]
    }

    /// How many whole hours it takes.
    pub(super) fn hours(self) -> u64 {
        match self {
            Self::Hours { hours } => hours.into(),
            Self::Days { days } => 24 * u64::from(days),
            _ => 0,
        }
    }

    /// The device that it is about, by its index.
    pub fn of_device(self) -> Option<u16> {
        let (kind, numbers) = self.parts();
        let at = Self::KINDS[kind].args.iter().position(|arg| *arg == "device")?;
        numbers.get(at).copied()
    }

    /// A number of that name from a byte: the useful sizes, most of them small.
    pub(super) fn number(arg: &str, byte: u8) -> u16 {
        let byte = u16::from(byte);
        match arg {
            "ms" => (1 << (byte % 13)) + byte,
            "bytes" if byte < 250 => byte,
            "bytes" => 20_000,
            "hours" => 1 + byte % 48,
            "days" => 1 + byte % 14,
            "seconds" => 1 + byte % 180,
            // Within the first frame of most calls, and within commits and welcomes.
            "after" => byte * byte / 4,
            "way" => byte,
            "times" => 1 + byte % 4,
            "devices" => 1 + byte % 3,
            "batch" => byte % 6,
            "messages" => 16 + byte % 48,
            "moment" | "part" => byte % 3,
            "suite" | "full" | "how" | "admin" | "end" | "back" | "fast" | "many" | "up" => {
                byte % 2
            }
            _ => byte % 16,
        }
    }
}
