use super::*;
use crate::crypto::portable;
use crate::limits::ACCESS_TOKEN_TIME;

const SENDER: Sender = Sender { account: AccountId([1; 32]), device: DeviceId([2; 16]) };
const ISSUED: UnixMillis = UnixMillis(1_700_000_000_000);

fn key(byte: u8) -> TokenKey {
    TokenKey::new(portable(), Zeroizing::new([byte; 32]))
}

fn issue(key: &TokenKey) -> Token {
    key.issue(SENDER, ISSUED, ACCESS_TOKEN_TIME, &mut Entropy::from_seed([5; 32])).0
}

#[test]
fn a_token_says_what_it_was_issued_for() {
    let (token, expires) =
        key(1).issue(SENDER, ISSUED, ACCESS_TOKEN_TIME, &mut Entropy::from_seed([5; 32]));
    assert_eq!(token.0.len(), ACCESS_TOKEN);
    assert_eq!(expires, ISSUED.plus(ACCESS_TOKEN_TIME));
    let claims = key(1).verify(&token, ISSUED).unwrap();
    assert_eq!(claims, Claims { sender: SENDER, issued: ISSUED, expires });
}

#[test]
fn two_tokens_of_one_moment_differ() {
    let mut entropy = Entropy::from_seed([5; 32]);
    let (one, _) = key(1).issue(SENDER, ISSUED, ACCESS_TOKEN_TIME, &mut entropy);
    let (other, _) = key(1).issue(SENDER, ISSUED, ACCESS_TOKEN_TIME, &mut entropy);
    assert_ne!(one, other);
}

#[test]
fn it_ends_at_its_last_millisecond() {
    let token = issue(&key(1));
    let end = ISSUED.plus(ACCESS_TOKEN_TIME);
    assert!(key(1).verify(&token, UnixMillis(end.0 - 1)).is_ok());
    assert_eq!(key(1).verify(&token, end), Err(TokenError::Expired));
    assert_eq!(key(1).verify(&token, UnixMillis(u64::MAX)), Err(TokenError::Expired));
}

#[test]
fn another_key_makes_another_servers_token() {
    assert_eq!(key(2).verify(&issue(&key(1)), ISSUED), Err(TokenError::Invalid));
}

#[test]
fn every_forged_byte_and_length_is_invalid() {
    let token = issue(&key(1));
    for at in 0..ACCESS_TOKEN {
        for flip in [0x01, 0x80] {
            let mut bad = token.clone();
            bad.0[at] ^= flip;
            assert_eq!(key(1).verify(&bad, ISSUED), Err(TokenError::Invalid), "byte {at}");
        }
        let cut = Token(Zeroizing::new(token.0[..at].to_vec()));
        assert_eq!(key(1).verify(&cut, ISSUED), Err(TokenError::Invalid), "cut at {at}");
    }
    let longer = Token(Zeroizing::new([token.0.as_slice(), &[0]].concat()));
    assert_eq!(key(1).verify(&longer, ISSUED), Err(TokenError::Invalid));
}

/// A forged token that is also over says `Invalid`: who cannot make a MAC learns nothing of its contents.
#[test]
fn the_mac_is_checked_before_the_time() {
    let mut bad = issue(&key(1));
    bad.0[1] ^= 1;
    assert_eq!(key(1).verify(&bad, UnixMillis(u64::MAX)), Err(TokenError::Invalid));
}

#[test]
fn a_token_of_a_later_version_is_invalid_though_its_mac_holds() {
    let token = issue(&key(1));
    let mut body = token.0[..BODY].to_vec();
    body[0] += 1;
    let mac = key(1).mac(&body);
    body.extend_from_slice(&*mac);
    assert_eq!(key(1).verify(&Token(Zeroizing::new(body)), ISSUED), Err(TokenError::Invalid));
}

#[test]
fn kinds_of_tokens_do_not_mix() {
    let refresh_token = refresh(&mut Entropy::from_seed([6; 32]));
    assert_eq!(refresh_token.0.len(), REFRESH_TOKEN);
    assert_eq!(key(1).verify(&refresh_token, ISSUED), Err(TokenError::Invalid));
    assert_eq!(refresh_hash(&issue(&key(1))), Err(TokenError::Invalid));
    assert_eq!(refresh_hash(&refresh_token), Ok(hash(&refresh_token)));
    let cut = Token(Zeroizing::new(refresh_token.0[..REFRESH_TOKEN - 1].to_vec()));
    assert_eq!(refresh_hash(&cut), Err(TokenError::Invalid));
    assert_eq!(refresh_hash(&Token(Zeroizing::new(Vec::new()))), Err(TokenError::Invalid));
}

#[test]
fn refresh_tokens_are_random() {
    let mut entropy = Entropy::from_seed([6; 32]);
    assert_ne!(refresh(&mut entropy), refresh(&mut entropy));
}

#[test]
fn a_life_beyond_all_time_saturates() {
    let mut entropy = Entropy::from_seed([5; 32]);
    let (token, expires) = key(1).issue(SENDER, UnixMillis(u64::MAX), Duration::MAX, &mut entropy);
    assert_eq!(expires, UnixMillis(u64::MAX));
    assert_eq!(key(1).verify(&token, UnixMillis(u64::MAX)), Err(TokenError::Expired));
}

#[test]
fn nothing_secret_is_printed() {
    assert_eq!(format!("{:?}", key(1)), "TokenKey(…)");
    assert_eq!(format!("{:?}", issue(&key(1))), "Token(…)");
}
