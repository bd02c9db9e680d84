"""One flat file per algorithm. They share verbs (`learner`, `session`, `batch`) and no base class."""
