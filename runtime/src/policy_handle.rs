//! The way from the link to whoever hosts the reconnect policy. It stands between the two rooms, so that neither knows
//! the other.

use moorline_core::link::policy::{Decision, PolicyFault, Question};
use tokio::sync::{mpsc, oneshot};

/// A question on its way to the policy, with the place for the answer.
#[derive(Debug)]
pub struct Consultation {
    /// What is asked.
    pub question: Question,
    /// Where the answer goes. Dropped without an answer it counts as [`PolicyFault::Absent`].
    pub answer: oneshot::Sender<Result<Decision, PolicyFault>>,
}

/// One question at a time: the link waits for its answer before it asks again.
const CONSULTATIONS: usize = 1;

/// The link's end.
#[derive(Clone, Debug)]
pub struct PolicyHandle {
    consultations: mpsc::Sender<Consultation>,
}

impl PolicyHandle {
    /// A handle and the receiving end for the policy's host. Dropping the receiver makes every policy absent.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Consultation>) {
        let (consultations, receiver) = mpsc::channel(CONSULTATIONS);
        (Self { consultations }, receiver)
    }

    /// Asks the policy. The caller sets the deadline.
    ///
    /// # Errors
    /// When no policy is there, or it trapped or stalled.
    pub async fn consult(&self, question: Question) -> Result<Decision, PolicyFault> {
        let (answer, reply) = oneshot::channel();
        let consultation = Consultation { question, answer };
        self.consultations
            .send(consultation)
            .await
            .map_err(|_closed| PolicyFault::Absent)?;
        reply.await.unwrap_or(Err(PolicyFault::Absent))
    }
}
