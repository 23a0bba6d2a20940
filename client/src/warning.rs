//! What a device's machine tells without having been asked, as warnings and notes for people.

use qpc_protocol::client::event::{self, Event, NameConflict, Why};
use qpc_protocol::id::AccountId;
use qpc_protocol::wire::message::Username;

use crate::output::{Output, plain};

/// Says what the user should know of it, if anything.
pub(crate) fn warn(output: Output, event: &Event) {
    match event {
        Event::ForkDetected { channel, agreed, seq, by: None } => output.warn(&format!(
            "THE SERVER CONTRADICTS ITSELF about the log of group {channel}, {}: do not trust it",
            place(*agreed, *seq)
        )),
        Event::ForkDetected { channel, agreed, seq, by: Some(by) } => output.warn(&format!(
            "A MEMBER HAS ANOTHER LOG of group {channel}, {} (account {}): the server shows different logs to \
             different members, or that member does not tell the truth; compare with more of them (qpc verify --group)",
            place(*agreed, *seq),
            by.account
        )),
        Event::ForkSuspected { channel, seq } => output.warn(&format!(
            "the server's answer about group {channel}, #{seq}, does not hold"
        )),
        Event::Gap { channel, from, to } => output.warn(&format!(
            "group {channel}: entries #{from} to #{} are not going to be read here: they are gone, or the group was \
             reset unread",
            to.saturating_sub(1)
        )),
        Event::Unreadable { channel, seq, why } => {
            output.warn(&format!("group {channel}: entry #{seq} cannot be used: {why}"));
        }
        Event::AccountChanged { username, trust: event::Trust::Changed { verified, .. }, .. } => {
            let was = if *verified { " and was VERIFIED" } else { "" };
            output.warn(&format!(
                "{username} IS ANOTHER ACCOUNT THAN BEFORE{was}: compare safety numbers (qpc verify {username}), or \
                 accept it (qpc trust accept {username})"
            ));
        }
        Event::AccountChanged { username, .. } => {
            output.note(&format!("{username} is the account again that it was"));
        }
        Event::NameContradicted { account, claimed, by, conflict } => {
            output.warn(&contradicted(*account, claimed, *by, conflict));
        }
        Event::NotAdded { channel, device, why, .. } => output.warn(&format!(
            "group {channel}: device {} of that account is not added: {}",
            device.device,
            plain(why)
        )),
        Event::DeviceAdded { record } => output.note(&format!(
            "your account has a new device, {}; if it is not yours: qpc devices revoke {}",
            record.device, record.device
        )),
        Event::DeviceRevoked { revocation } => {
            output.note(&format!("your account has revoked its device {}", revocation.device));
        }
        Event::ServerFault { fault, .. } => {
            output.warn(&format!("the server broke the protocol: {fault}"));
        }
        Event::LeaveUndone { channel } => output.warn(&format!(
            "this device is the last admin of group {channel} and a member still: name another, and leave again"
        )),
        Event::Restored { behind } => output.note(&format!(
            "this home was restored from a backup ({behind} later changes of this device are known of); it comes back \
             to its groups by new keys"
        )),
        Event::RecordLost { channel, what, cost } => {
            let group = channel.map(|channel| format!("group {channel}: ")).unwrap_or_default();
            output.warn(&format!("{group}{what}: damaged on this device, and gone; {cost}"));
        }
        Event::FellOut { channel, why } => output.note(&format!(
            "group {channel}: {}; this device comes back to it by new keys",
            fallen(*why)
        )),
        Event::Rejoined { channel, epoch, .. } => {
            output.note(&format!("back in group {channel}, epoch {epoch}"));
        }
        Event::Reset { channel, generation, .. } => output.note(&format!(
            "group {channel} begins anew, as generation {generation}: an admin has reset it"
        )),
        Event::Evicted { channel, .. } => {
            output.note(&format!("this device is no member of group {channel} any more"));
        }
        _ => {}
    }
}

/// A name that a member claims, and what contradicts it.
fn contradicted(
    account: AccountId,
    claimed: &Username,
    by: AccountId,
    conflict: &NameConflict,
) -> String {
    let of = if by == account { "it".to_owned() } else { format!("account {account}") };
    let but = match conflict {
        NameConflict::LeadsTo(other) => format!("the server says that this is account {other}"),
        NameConflict::Unknown => "the server knows nobody of that name".to_owned(),
        NameConflict::KnownAs(known) => format!("this device knows it as {known}"),
    };
    format!(
        "A MEMBER CLAIMS ANOTHER NAME: account {by} says that {of} is called {claimed}, but {but}; that member or the \
         server does not tell the truth, and the name is not shown"
    )
}

/// Where two logs part: behind what is known to be the same in both, and not behind what is known to differ.
fn place(agreed: u64, seq: u64) -> String {
    match agreed.saturating_add(1) {
        first if first >= seq => format!("at #{seq}"),
        first => format!("between #{first} and #{seq}"),
    }
}

/// Why this device could not go on in a group.
fn fallen(why: Why) -> &'static str {
    match why {
        Why::Restored => "the keys here may have been used since the backup",
        Why::Gap => "this device was away too long",
        Why::Damaged => "what is stored of it is damaged",
        Why::Unopened => "a commit does not open here",
        Why::Missed => "it has moved on without this device",
        Why::Asked => "its keys are to be replaced",
        Why::Added => "it was added by a key that this device does not have",
        Why::Blocked => "a change waits in it that nobody can make",
        _ => "this device cannot go on",
    }
}
