package hypervisortest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// devices is what a fake QEMU has besides what never changes.
type devices struct {
	mu      sync.Mutex
	files   map[string]*os.File   // given by getfd
	netdevs map[string][]*os.File // by id
	buses   map[string]string     // what is in each port; "": nothing
	ids     map[string]string     // netdev of each device with an id
}

func newDevices() *devices {
	return &devices{
		files: map[string]*os.File{}, netdevs: map[string][]*os.File{}, buses: map[string]string{}, ids: map[string]string{},
	}
}

// parseNetdev takes the back end that is named on the command line, "tap,id=nic,fds=6:7".
func (d *devices) parseNetdev(value string) error {
	var files []*os.File
	for text := range strings.SplitSeq(property(value, "fds"), ":") {
		fd, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("netdev %s: %w", value, err)
		}
		files = append(files, os.NewFile(uintptr(fd), "tap"))
	}
	return d.addNetdev(property(value, "id"), files)
}

// parseDevice takes a device that is named on the command line.
func (d *devices) parseDevice(value string) error {
	id, netdev := property(value, "id"), property(value, "netdev")
	if d.netdevs[netdev] == nil && netdev != "" {
		return fmt.Errorf("device %s: there is no netdev %s", value, netdev)
	}
	d.ids[id] = netdev
	if strings.HasPrefix(value, "pcie-root-port,") {
		d.buses[id] = ""
	}
	return nil
}

// addNetdev asks the files whether they are a tap's, as QEMU does.
func (d *devices) addNetdev(id string, files []*os.File) error {
	if d.netdevs[id] != nil {
		return fmt.Errorf("duplicate netdev %s", id)
	}
	for _, file := range files {
		answer, err := unix.NewIfreq("")
		if err == nil {
			err = unix.IoctlIfreq(int(file.Fd()), unix.TUNGETIFF, answer)
		}
		if err != nil {
			return fmt.Errorf("netdev %s: TUNGETIFF: %w", id, err)
		}
	}
	d.netdevs[id] = files
	return nil
}

// arguments are those of all commands together.
type arguments struct {
	URI, FDName, ID, FDs, Driver, Bus, Netdev, MAC string
}

// notFound is an error of QEMU's class DeviceNotFound.
type notFound string

func (id notFound) Error() string { return fmt.Sprintf("Device '%s' not found", string(id)) }

// execute obeys the commands that plug and unplug. known tells whether it is one of them.
func (d *devices) execute(command string, a arguments, received func() *os.File) (known bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch command {
	case "getfd":
		file := received()
		if file == nil {
			return true, fmt.Errorf("no file descriptor supplied via SCM_RIGHTS")
		}
		d.files[a.FDName] = file
	case "closefd":
		if d.files[a.FDName] == nil {
			return true, fmt.Errorf("file descriptor named '%s' not found", a.FDName)
		}
		d.files[a.FDName].Close()
		delete(d.files, a.FDName)
	case "netdev_add":
		return true, d.netdevAdd(a)
	case "netdev_del":
		if d.netdevs[a.ID] == nil {
			return true, notFound(a.ID)
		}
		for _, file := range d.netdevs[a.ID] {
			file.Close()
		}
		delete(d.netdevs, a.ID)
	case "device_add":
		return true, d.deviceAdd(a)
	case "device_del":
		if _, ok := d.ids[a.ID]; !ok {
			return true, notFound(a.ID)
		}
	default:
		return false, nil
	}
	return true, nil
}

func (d *devices) netdevAdd(a arguments) error {
	var files []*os.File
	for name := range strings.SplitSeq(a.FDs, ":") {
		if d.files[name] == nil {
			return fmt.Errorf("file descriptor named '%s' has not been found", name)
		}
		files = append(files, d.files[name])
		delete(d.files, name)
	}
	err := d.addNetdev(a.ID, files)
	if err != nil {
		for _, file := range files {
			file.Close()
		}
	}
	return err
}

func (d *devices) deviceAdd(a arguments) error {
	content, isPort := d.buses[a.Bus]
	_, duplicate := d.ids[a.ID]
	_, macErr := net.ParseMAC(a.MAC)
	switch {
	case a.Driver != "virtio-net-pci":
		return fmt.Errorf("'%s' is not a valid device model name", a.Driver)
	case !isPort:
		return fmt.Errorf("bus '%s' not found", a.Bus)
	case content != "":
		return fmt.Errorf("slot 0 of %s is in use by %s", a.Bus, content)
	case duplicate:
		return fmt.Errorf("duplicate device ID '%s'", a.ID)
	case a.Netdev != "" && d.netdevs[a.Netdev] == nil:
		return fmt.Errorf("property 'virtio-net-pci.netdev' can't find value '%s'", a.Netdev)
	case macErr != nil:
		return macErr
	}
	d.ids[a.ID], d.buses[a.Bus] = a.Netdev, a.ID
	return nil
}

// eject is what a guest does that lets go of a device.
func (d *devices) eject(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ids, id)
	for bus, content := range d.buses {
		if content == id {
			d.buses[bus] = ""
		}
	}
}

// socketReader reads a connection and keeps the files that come with the bytes.
type socketReader struct {
	conn  *net.UnixConn
	files []*os.File
}

func (r *socketReader) Read(buffer []byte) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	n, controlLength, _, _, err := r.conn.ReadMsgUnix(buffer, control)
	if err != nil {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlLength])
	if err != nil {
		return n, err
	}
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return n, nil
}

// next returns the first of the files, nil if there is none.
func (r *socketReader) next() *os.File {
	if len(r.files) == 0 {
		return nil
	}
	file := r.files[0]
	r.files = slices.Delete(r.files, 0, 1)
	return file
}

// plug answers a command that plugs or unplugs; it tells whether it is one.
func (f *fake) plug(command string, a arguments, id json.RawMessage) bool {
	known, err := f.devices.execute(command, a, f.input.next)
	switch err.(type) {
	case nil:
		if known {
			f.say(`{"return": {}, "id": %s}`, id)
		}
	case notFound:
		f.say(`{"error": {"class": "DeviceNotFound", "desc": %q}, "id": %s}`, err.Error(), id)
	default:
		f.say(`{"error": {"class": "GenericError", "desc": %q}, "id": %s}`, err.Error(), id)
	}
	if _, act := readKernel(f.kernel); command == "device_del" && err == nil && act == Eject {
		f.devices.eject(a.ID)
		f.event("DEVICE_DELETED", fmt.Sprintf(`{"device": %q, "path": "/machine/peripheral/%s"}`, a.ID, a.ID))
	}
	return known
}
