package store

import "errors"

// The texts of the first three are runc's, because engines look for them.
var (
	// ErrInvalidID: the id cannot name a container. Returned before anything is made.
	ErrInvalidID = errors.New("invalid container ID format")

	// ErrExists: another create was first.
	ErrExists = errors.New("container with given ID already exists")

	// ErrNotExist: nothing of that id is in the run directory.
	ErrNotExist = errors.New("container does not exist")

	// ErrDamaged: there is something of that id, but not what we would have written. It can only be removed.
	ErrDamaged = errors.New("container state is damaged")
)

// What makes a file in a run directory one that we did not write.
var (
	errForeign = errors.New("belongs to someone else")
	errUnfit   = errors.New("not a file of ours")
)
