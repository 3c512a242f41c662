package sandbox

import "errors"

// What a container refuses in its present state. Engines look for these texts, which are runc's.
var (
	ErrNotRunning     = errors.New("container not running")
	ErrNotPaused      = errors.New("container not paused")
	ErrAlreadyRunning = errors.New("cannot start an already running container")
	ErrHasStopped     = errors.New("cannot start a container that has stopped")
	ErrExecStopped    = errors.New("cannot exec in a stopped container")
	ErrExecPaused     = errors.New("cannot exec in a paused container")
	ErrNoContainer    = errors.New("container does not exist")
	ErrNoProcess      = errors.New("no such process")
	ErrNothingToStart = errors.New("cannot start a container: process property must not be empty")
)
