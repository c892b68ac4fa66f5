//! The in-memory queue: index, conditions, states, retry schedule, lanes and policies. Pure: time is an argument.
