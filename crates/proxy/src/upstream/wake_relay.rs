//! Relays wakes to the task that drives a connection.
//!
//! hyper's halves wake each other through channels. While one task polls both, a wake should mean another round for them, and
//! not for the whole task including the downstream connection.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The receiver of wakes.
#[derive(Debug, Default)]
pub(super) struct WakeRelay {
    driver: Mutex<Option<Waker>>,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl WakeRelay {
    /// Sets the driver, which is polling. Wakes are remembered until [`WakeRelay::end`], and wake the driver afterwards.
    pub(super) fn begin(&self, driver: &Waker) {
        match &mut *self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) => known.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
        self.woken.store(false, SeqCst);
        self.polling.store(true, SeqCst);
    }

    /// Returns whether there was a wake since the last call.
    pub(super) fn was_woken(&self) -> bool {
        self.woken.load(SeqCst) && self.woken.swap(false, SeqCst)
    }

    /// Notes that the driver has stopped polling.
    pub(super) fn end(&self) {
        self.polling.store(false, SeqCst);
    }

    /// Removes the driver.
    pub(super) fn forget(&self) {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Wake for WakeRelay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(SeqCst) {
            self.woken.store(true, SeqCst);
        } else if let Some(driver) = &*self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            driver.wake_by_ref();
        }
    }
}
