"""A course made of the exercises: hand out, collect, grade, without a server.

    python make.py assignments                  course/release: what students get
    python make.py grade SUBMISSIONS            course/results: grades, feedback, the class

nbgrader clears the solutions and keeps the gradebook; what it does not have is here: submissions
are made whole before anything runs, and run in a sandbox where the machine has one.
"""
