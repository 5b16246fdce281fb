//! Workers, drain, the admin endpoint, readiness, and a proxy's enrolment.
