//! What only tests need: throw-away databases, fault wrappers, conformance suites over the traits of the model.

pub mod conformance;
pub mod faulty;
