//! Commands about the account, its devices and the connection.

use zeroize::Zeroizing;

use super::Client;
use super::command::prepare;
use super::login::{AuthStep, AuthTask};
use super::net::Ask;
use super::session::Phase;
use crate::auth::client::Password;
use crate::env::Now;
use crate::error::{CloseCode, Refused};
use crate::id::DeviceId;
use crate::io::Ticket;

impl Client {
    /// Makes the account `username` and logs this device in. → [`Outcome::Account`](super::event::Outcome::Account)
    ///
    /// # Errors
    /// `HasAccount`, `Busy` while another login is under way, `Invalid` for a name or password out of bounds.
    pub fn register(
        &mut self,
        now: Now,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        if self.identity.is_some() {
            return Err(Refused::HasAccount);
        }
        self.authenticate(username, password, true)
    }

    /// Logs this device in to an existing account: a new device on first use, the same one later.
    /// → [`Outcome::Account`](super::event::Outcome::Account)
    ///
    /// # Errors
    /// `Busy` while another login is under way, `Invalid` for a name or password out of bounds or another name
    /// than this device's.
    pub fn login(
        &mut self,
        now: Now,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.authenticate(username, password, false)
    }

    fn authenticate(
        &mut self,
        username: &str,
        password: Zeroizing<String>,
        register: bool,
    ) -> Result<Ticket, Refused> {
        let username = prepare(username)?;
        let password = Password::prepare(&password).ok_or(Refused::Invalid(
            "a password has 1 to 1024 bytes and no control characters (RFC 8265)",
        ))?;
        if self.auth.is_some() {
            return Err(Refused::Busy);
        }
        if self.identity.as_ref().is_some_and(|identity| identity.username != username) {
            return Err(Refused::Invalid("this device belongs to another username"));
        }
        // The login before this one is through but for its key packages, which this one sees to as well.
        self.greet();
        let ticket = self.next_ticket();
        self.auth = Some(AuthTask {
            ticket,
            username,
            password,
            register,
            register_sent: false,
            step: AuthStep::Waiting,
        });
        if self.phase() == Some(Phase::Online) {
            // A connection has one session: the password opens another.
            self.close_connection(CloseCode::DONE);
        }
        self.connect_soon();
        self.advance_session();
        Ok(ticket)
    }

    /// Ends the session and this device's tokens. → [`Outcome::Done`](super::event::Outcome::Done)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`.
    pub fn logout(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.ask(now, Ask::Logout)
    }

    /// Connects now instead of when the backoff ends.
    pub fn connect(&mut self, now: Now) {
        self.set_now(now);
        self.connect_soon();
    }

    /// Closes the connection and stays away until [`Self::connect`]; what is unacknowledged stays in the outbox.
    pub fn disconnect(&mut self, now: Now) {
        self.set_now(now);
        self.close_connection(CloseCode::DONE);
        self.net.connect_at = None;
    }

    /// A round trip to the server, session or not. → [`Outcome::Pong`](super::event::Outcome::Pong)
    ///
    /// # Errors
    /// `Busy`.
    pub fn ping(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.begin(now)?;
        let sent = self.now.mono;
        Ok(self.queue_ask(Ask::Ping(sent)))
    }

    /// → [`Outcome::Health`](super::event::Outcome::Health), session or not.
    ///
    /// # Errors
    /// `Busy`.
    pub fn health(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.begin(now)?;
        Ok(self.queue_ask(Ask::Health))
    }

    /// The account of a username, and its safety number with ours. → [`Outcome::Lookup`](super::event::Outcome::Lookup)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid`.
    pub fn lookup(&mut self, now: Now, username: &str) -> Result<Ticket, Refused> {
        let username = prepare(username)?;
        self.ask(now, Ask::Lookup(username))
    }

    /// The devices of the own account. → [`Outcome::Devices`](super::event::Outcome::Devices)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`.
    pub fn devices(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.ask(now, Ask::Devices)
    }

    /// Revokes another device of the own account. → [`Outcome::Done`](super::event::Outcome::Done)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` for this device itself.
    pub fn revoke(&mut self, now: Now, device: DeviceId) -> Result<Ticket, Refused> {
        if self.me().is_some_and(|me| me.device == device) {
            return Err(Refused::Invalid(
                "a device cannot revoke itself; log out or delete the account",
            ));
        }
        self.ask(now, Ask::Revoke(device))
    }

    /// How many key packages the server has of this device. →
    /// [`Outcome::KeyPackages`](super::event::Outcome::KeyPackages)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`.
    pub fn key_packages(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.ask(now, Ask::Packages)
    }

    /// Uploads fresh key packages now. → [`Outcome::KeyPackages`](super::event::Outcome::KeyPackages)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`.
    pub fn refresh_key_packages(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        let ticket = self.next_ticket();
        self.want_packages(ticket);
        Ok(ticket)
    }

    /// Deletes the account on the server. → [`Outcome::Done`](super::event::Outcome::Done)
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`.
    pub fn delete_account(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.ask(now, Ask::Delete)
    }

    fn ask(&mut self, now: Now, ask: Ask) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        Ok(self.queue_ask(ask))
    }
}
