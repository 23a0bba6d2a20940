use super::*;
use crate::client::checkpoint::tests::{account, alone, name};

/// However many names there are to be heard: so many are kept, none of them makes room, and those that are known are
/// held to what they were.
#[test]
fn there_is_room_for_so_many_contacts() {
    let (mut client, _) = alone();
    for number in 0..CONTACTS {
        let contact =
            Contact { username: name(number), trust: Trust::Seen, since: client.now.wall };
        client.contacts.insert(account(number), contact);
    }
    let full = client.learn(account(CONTACTS), name(CONTACTS));
    assert_eq!(full, Err(Contradiction::Full));
    assert_eq!(client.contacts.len(), CONTACTS);
    assert_eq!(client.learn(account(0), name(0)), Ok(()));
    assert_eq!(client.learn(account(CONTACTS), name(1)), Err(Contradiction::Moved));
    assert_eq!(client.contacts.len(), CONTACTS);
    client.forget(client.now, account(0)).unwrap();
    assert_eq!(client.learn(account(CONTACTS + 1), name(CONTACTS)), Ok(()));
    assert_eq!(client.learn(account(CONTACTS + 2), name(0)), Err(Contradiction::Full));
}
