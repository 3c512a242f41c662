package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// Setup implements protocol.AgentService.
func (a *Agent) Setup(_ context.Context, r *protocol.SetupRequest) (*protocol.SetupResponse, error) {
	if err := addEntropy(r.Entropy); err != nil {
		return nil, err
	}
	if r.TimeUnixNano != 0 {
		now := unix.NsecToTimespec(r.TimeUnixNano)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			return nil, fmt.Errorf("set clock: %w", err)
		}
	}
	if r.Hostname != "" {
		if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
			return nil, fmt.Errorf("set host name: %w", err)
		}
	}
	if r.MachineId != "" {
		if err := os.WriteFile(a.config.MachineID, []byte(r.MachineId+"\n"), 0o444); err != nil {
			return nil, fmt.Errorf("write machine id: %w", err)
		}
	}
	if s := r.Share; s != nil {
		if err := unix.Mount(s.Tag, a.config.Share, s.Type, 0, s.Options); err != nil {
			return nil, fmt.Errorf("mount %s share %q with %q: %w", s.Type, s.Tag, s.Options, err)
		}
	}
	return &protocol.SetupResponse{}, nil
}

// addEntropy credits the bytes to the kernel's pool and makes it reseed at once: this guest may be a clone, and must
// not draw the numbers that others draw (random(4), RNDADDENTROPY and RNDRESEEDCRNG).
func addEntropy(entropy []byte) error {
	if len(entropy) == 0 {
		return nil
	}
	random, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/urandom: %w", err)
	}
	defer unix.Close(random)
	// struct rand_pool_info: int entropy_count in bits, int buf_size in bytes, the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(entropy)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(entropy)))
	info = append(info, entropy...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(random), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if err := unix.IoctlSetInt(random, unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("reseed random numbers: %w", err)
	}
	return nil
}

// mountShm mounts a tmpfs that several containers share, unless it was mounted before.
func (a *Agent) mountShm(shm *protocol.Tmpfs) error {
	if shm == nil || shm.Path == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory[shm.Path] {
		return nil
	}
	if err := os.MkdirAll(shm.Path, 0o755); err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	options := fmt.Sprintf("mode=1777,size=%d", shm.Size)
	if err := unix.Mount("shm", shm.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	a.memory[shm.Path] = true
	return nil
}
