package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor/qmp"
)

// answerTime bounds what QEMU does without its guest. It needs milliseconds, unless it hangs.
const answerTime = 10 * time.Second

// plugged is a device in a hot-plug port.
type plugged struct {
	id      string
	tap     bool          // it has a back end of its name
	claimed bool          // somebody removes it
	asked   bool          // the guest knows that it shall let go of it; only for who has claimed it
	gone    chan struct{} // closed when the guest has let go of it, and QEMU has deleted it
}

// AddNIC plugs a further NIC into a free hot-plug port, with as many queues as the one in the slot. The id begins with a
// letter, and goes on with letters, digits, '-', '.' and '_'. AddNIC returns when QEMU has the device, and the guest finds
// it soon after. A clone must have read its state, as one whose agent answers has. On error nothing of it is there, unless QEMU hangs, which costs the VM the port until RemoveNIC has got
// an answer. The context is heeded up to the moment when QEMU is told.
func (vm *VM) AddNIC(ctx context.Context, id string, mac net.HardwareAddr, nic NIC) error {
	err := ctx.Err()
	if err == nil {
		err = vm.machine.checkNIC(nic)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		err = vm.addNIC(ctx, id, mac, nic)
	}
	if err != nil {
		return fmt.Errorf("add NIC %s: %w", id, err)
	}
	return nil
}

func (vm *VM) addNIC(ctx context.Context, id string, mac net.HardwareAddr, nic NIC) error {
	port, err := vm.takePort(&plugged{id: id, tap: len(nic.Tap) > 0, gone: make(chan struct{})})
	if err != nil {
		return err
	}
	err = vm.plugNIC(ctx, id, port, mac, nic)
	if err != nil && ctx.Err() == nil { // else QEMU hangs, and nobody knows what is there
		vm.freePort(port)
	}
	return err
}

// plugNIC makes the back end and the device.
func (vm *VM) plugNIC(ctx context.Context, id string, port int, mac net.HardwareAddr, nic NIC) error {
	device := map[string]any{
		"driver": "virtio-net-pci", "id": id, "bus": portName(port), "addr": "0", "mac": mac.String(),
		"disable-legacy": "on", "romfile": "",
	}
	if n := vm.machine.Queues(); n > 1 {
		device["mq"], device["vectors"] = true, vectors(n)
	}
	if len(nic.Tap) > 0 {
		if err := vm.addTap(ctx, id, nic); err != nil {
			return err
		}
		device["netdev"] = id
	}
	err := vm.still(ctx, func() error { return vm.qmp.Execute(ctx, "device_add", device, nil) })
	if err != nil && len(nic.Tap) > 0 {
		err = errors.Join(err, vm.removeTap(ctx, id))
	}
	return err
}

// still acts while the vCPUs stand still, where that is of use. With TCG device_add waits, and all of QEMU's main loop
// with it, until each vCPU has left the translated code once. It asks them to, but not if it had begun to wait before
// (drain_call_rcu and wait_for_readers in QEMU 7.2), and then a guest that never idles never does (seen).
func (vm *VM) still(ctx context.Context, act func() error) (err error) {
	vm.runs.Lock()
	defer vm.runs.Unlock()
	status, err := vm.Status(ctx)
	switch {
	case err != nil:
		return err
	case status != "running" && status != "paused":
		return fmt.Errorf("the VM is not up: %s", status)
	case status == "paused" || vm.machine.Accel != TCG:
		return act()
	}
	if err := vm.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	err = act()
	return errors.Join(err, vm.qmp.Execute(ctx, "cont", nil, nil))
}

// isRefusal tells whether QEMU answered that it did not do what it was told.
func isRefusal(err error) bool {
	refused := new(qmp.Error)
	return errors.As(err, &refused)
}

// isMissing tells whether QEMU refused because there is no device, or back end, of that name.
func isMissing(err error) bool {
	refused := new(qmp.Error)
	return errors.As(err, &refused) && refused.Class == "DeviceNotFound"
}

// addTap makes the back end of a NIC.
func (vm *VM) addTap(ctx context.Context, id string, nic NIC) (err error) {
	var sent []string
	send := func(kind string, files []*os.File) (string, error) {
		var names []string
		for i, file := range files {
			name := fmt.Sprintf("%s-%s-%d", id, kind, i)
			if err := vm.qmp.SendFile(ctx, name, file); err != nil {
				return "", err
			}
			names, sent = append(names, name), append(sent, name)
		}
		return strings.Join(names, ":"), nil
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range sent { // those that QEMU has taken into use have no name any more
			_ = vm.qmp.Execute(ctx, "closefd", map[string]any{"fdname": name}, nil)
		}
	}()
	netdev := map[string]any{"type": "tap", "id": id}
	if netdev["fds"], err = send("tap", nic.Tap); err != nil {
		return err
	}
	if len(nic.VHost) > 0 {
		netdev["vhost"] = true
		if netdev["vhostfds"], err = send("vhost", nic.VHost); err != nil {
			return err
		}
	}
	return vm.qmp.Execute(ctx, "netdev_add", netdev, nil)
}

// removeTap removes the back end of a NIC, if it is there.
func (vm *VM) removeTap(ctx context.Context, id string) error {
	if err := vm.qmp.Execute(ctx, "netdev_del", map[string]any{"id": id}, nil); !isMissing(err) {
		return err
	}
	return nil
}

// RemoveNIC takes away a NIC that AddNIC has added: it asks the guest to let go of it, and waits until it has, which a
// guest may never do. When the context ends that wait, the NIC is still there, and can be removed later.
func (vm *VM) RemoveNIC(ctx context.Context, id string) error {
	port, device, err := vm.claim(id)
	if err == nil {
		if err = vm.removeNIC(ctx, device); err == nil {
			vm.freePort(port)
			return nil
		}
		vm.unclaim(device)
	}
	return fmt.Errorf("remove NIC %s: %w", id, err)
}

func (vm *VM) removeNIC(ctx context.Context, device *plugged) error {
	if err := vm.removeDevice(ctx, device); err != nil || !device.tap {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	defer cancel()
	return vm.removeTap(ctx, device.id)
}

// removeDevice returns when QEMU has no such device any more.
func (vm *VM) removeDevice(ctx context.Context, device *plugged) error {
	if isClosed(device.gone) { // the guest has let go of it unasked
		return nil
	}
	err := vm.qmp.Execute(ctx, "device_del", map[string]any{"id": device.id}, nil)
	switch {
	case err == nil:
		device.asked = true
	case isMissing(err):
		return nil
	case !isRefusal(err) || !device.asked: // a QEMU can refuse to ask the guest again
		return err
	}
	select {
	case <-device.gone:
		return nil
	case <-vm.done:
		return errors.New("the VM has ended")
	case <-ctx.Done():
		return fmt.Errorf("the guest does not let go of it: %w", ctx.Err())
	}
}

// takePort puts a device into the first free port.
func (vm *VM) takePort(device *plugged) (port int, err error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for _, other := range vm.ports {
		if other != nil && other.id == device.id {
			return 0, errors.New("there is one of that name")
		}
	}
	port = slices.Index(vm.ports, nil)
	if port < 0 {
		return 0, fmt.Errorf("none of the machine's %d hot-plug ports is free", len(vm.ports))
	}
	vm.ports[port] = device
	return port, nil
}

func (vm *VM) freePort(port int) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.ports[port] = nil
}

// claim gives one caller the right to remove a device.
func (vm *VM) claim(id string) (port int, device *plugged, err error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for port, device := range vm.ports {
		switch {
		case device == nil || device.id != id:
		case device.claimed:
			return 0, nil, errors.New("it is being removed")
		default:
			device.claimed = true
			return port, device, nil
		}
	}
	return 0, nil, errors.New("there is none of that name")
}

func (vm *VM) unclaim(device *plugged) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	device.claimed = false
}

// deleted takes note of a DEVICE_DELETED event.
func (vm *VM) deleted(data json.RawMessage) {
	var event struct{ Device string }
	if json.Unmarshal(data, &event) != nil {
		return
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for _, device := range vm.ports {
		if device != nil && device.id == event.Device && !isClosed(device.gone) {
			close(device.gone)
		}
	}
}
