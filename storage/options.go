package storage

import (
	"slices"
	"strings"
)

// options are the options of a mount, told apart by who heeds them.
type options struct {
	bind      bool // bind or rbind is among them
	recursive bool
	readOnly  bool
	guest     []string // what a guest can understand
}

// parseOptions reads mount options in their order, later ones win (runtime-spec, config.md, Linux mount options).
// SELinux contexts are dropped: the guest has no such module, and its file systems refuse them.
func parseOptions(list []string) options {
	var o options
	for _, option := range list {
		switch option {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "ro", "rro":
			o.readOnly = true
		case "rw", "rrw":
			o.readOnly = false
		}
		if !isContext(option) {
			o.guest = append(o.guest, option)
		}
	}
	return o
}

func isContext(option string) bool {
	name, _, _ := strings.Cut(option, "=")
	return name == "context" || name == "fscontext" || name == "defcontext" || name == "rootcontext"
}

// recursive are the options that hold for all mounts below a bind mount, with what they say of one alone.
var recursive = map[string]string{
	"rro": "ro", "rrw": "rw", "rsuid": "suid", "rnosuid": "nosuid", "rdev": "dev", "rnodev": "nodev", "rexec": "exec",
	"rnoexec": "noexec", "rdiratime": "diratime", "rnodiratime": "nodiratime", "rrelatime": "relatime",
	"rnorelatime": "norelatime", "ratime": "atime", "rnoatime": "noatime", "rstrictatime": "strictatime",
	"rnostrictatime": "nostrictatime", "rsymfollow": "symfollow", "rnosymfollow": "nosymfollow",
}

// shared are the options of the guest's bind mount from the share. In the guest nothing is mounted below it, whatever
// is on the host, so recursive options say the same of the mount alone; crun cannot apply them to a file.
func (o options) shared() []string {
	list := make([]string, 0, len(o.guest)+1)
	for _, option := range o.guest {
		if plain, ok := recursive[option]; ok {
			option = plain
		}
		list = append(list, option)
	}
	if !o.bind {
		list = append(list, "bind")
	}
	return list
}

// unbound are the options of a mount of the guest that stands for a bind mount on the host.
func (o options) unbound() []string {
	return slices.DeleteFunc(o.shared(), func(option string) bool { return option == "bind" || option == "rbind" })
}
