package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A redirect of ours is one filter on the ingress of a device: last of all filters, so that what others have there (a
// policer) comes first, and with a handle and class that nobody gets by chance.
const (
	filterPriority = 0xff68
	filterHandle   = 0x687 // of u32: the lowest 12 bits

	// The class has no meaning on an ingress. Ours says who made the qdisc below the filter: a redirect that is taken off takes
	// it along only if it was made for it.
	classOwnQdisc    = 0x68790001
	classOthersQdisc = 0x68790002
)

// redirect is a filter that sends what comes into a device out of another one.
type redirect struct {
	filter netlink.Filter
	target int // 0: the device is gone
	class  uint32
}

func (r redirect) isOurs() bool {
	return r.class != 0
}

// redirects lists those on the ingress of a device, and all filters there. A device that is gone has none.
func redirects(h *netlink.Handle, index int) ([]redirect, []netlink.Filter, error) {
	filters, err := listFilters(h, index, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, nil, err
	}
	var found []redirect
	for _, filter := range filters {
		class, actions := contents(filter)
		a := filter.Attrs()
		if a.Priority != filterPriority || a.Handle&0xfff != filterHandle || class != classOwnQdisc && class != classOthersQdisc {
			class = 0
		}
		for _, action := range actions {
			mirred, ok := action.(*netlink.MirredAction)
			if ok && (mirred.MirredAction == netlink.TCA_EGRESS_REDIR || mirred.MirredAction == netlink.TCA_INGRESS_REDIR) {
				found = append(found, redirect{filter: filter, target: mirred.Ifindex, class: class})
			}
		}
	}
	return found, filters, nil
}

func listFilters(h *netlink.Handle, index int, parent uint32) ([]netlink.Filter, error) {
	return dump("filters", func() ([]netlink.Filter, error) { return h.FilterList(linkAt(index), parent) })
}

// contents are the class and the actions of a filter, of the kinds that a redirect is found in.
func contents(filter netlink.Filter) (uint32, []netlink.Action) {
	switch f := filter.(type) {
	case *netlink.U32:
		return f.ClassId, f.Actions
	case *netlink.MatchAll:
		return f.ClassId, f.Actions
	case *netlink.Flower:
		return f.ClassId, f.Actions
	}
	return 0, nil
}

// add redirects what comes into one device to another. An equal redirect that is there is left alone, one of a killed
// process is replaced, and any other is an error.
func add(h *netlink.Handle, from, to int) error {
	err := h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	class := uint32(classOwnQdisc)
	switch {
	case errors.Is(err, unix.EEXIST): // this one, or the kind "ingress", which does as well
		class = classOthersQdisc
	case err != nil:
		return fmt.Errorf("add a qdisc: %w", err)
	}
	there, filters, err := redirects(h, from)
	if err != nil {
		return err
	}
	for _, r := range there {
		switch {
		case r.isOurs() && r.target == to:
			return nil
		case !r.isOurs() || isUsed(h, r.target):
			return fmt.Errorf("its frames go to %s already", nameOf(h, r.target))
		}
		if err := removeFilter(h, r.filter, filters); err != nil {
			return err
		}
		class = r.class
	}
	err = addFilter(h, from, to, class)
	if err != nil && class == classOwnQdisc {
		return errors.Join(err, removeQdisc(h, from))
	}
	return err
}

// addFilter adds the filter of kind u32, or matchall where the kernel has no u32.
func addFilter(h *netlink.Handle, from, to int, class uint32) error {
	attributes := netlink.FilterAttrs{
		LinkIndex: from,
		Parent:    netlink.HANDLE_MIN_INGRESS,
		Priority:  filterPriority,
		Handle:    filterHandle,
		Protocol:  unix.ETH_P_ALL,
	}
	actions := []netlink.Action{netlink.NewMirredAction(to)}
	// A selector without keys matches every frame, however short.
	selector := &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL}
	err := h.FilterAdd(&netlink.U32{FilterAttrs: attributes, ClassId: class, Sel: selector, Actions: actions})
	if errors.Is(err, unix.ENOENT) {
		err = h.FilterAdd(&netlink.MatchAll{FilterAttrs: attributes, ClassId: class, Actions: actions})
	}
	if err != nil {
		return fmt.Errorf("add a redirect: %w", err)
	}
	return nil
}

// takeOff removes the redirects of ours that the caller wants gone from a device, and the qdisc if it was made for them and
// nobody else uses it.
func takeOff(h *netlink.Handle, index int, unwanted func(target int) bool) error {
	found, filters, err := redirects(h, index)
	if err != nil {
		return err
	}
	for _, r := range found {
		if !r.isOurs() || !unwanted(r.target) {
			continue
		}
		if err := removeFilter(h, r.filter, filters); err != nil {
			return err
		}
		if r.class != classOwnQdisc {
			continue
		}
		if err := removeQdisc(h, index); err != nil {
			return err
		}
	}
	return nil
}

// removeFilter removes one of all the filters of a device. Alone in its priority it is removed by that (no handle), because
// by handle the kernel would keep the empty table of a u32 filter while another such filter is on the device.
func removeFilter(h *netlink.Handle, filter netlink.Filter, all []netlink.Filter) error {
	a := filter.Attrs()
	if !slices.ContainsFunc(all, func(f netlink.Filter) bool { return f != filter && f.Attrs().Priority == a.Priority }) {
		a.Handle = 0
	}
	if err := h.FilterDel(filter); err != nil && !isGone(err) {
		return fmt.Errorf("remove a redirect: %w", err)
	}
	return nil
}

// removeQdisc removes the qdisc for what comes in and goes out of a device unless there are filters.
func removeQdisc(h *netlink.Handle, index int) error {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if filters, err := listFilters(h, index, parent); err != nil || len(filters) > 0 {
			return err
		}
	}
	err := h.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove a qdisc: %w", err)
	}
	return nil
}

// isUsed says whether there is a device that the frames of a redirect go to, and that is no left-over.
func isUsed(h *netlink.Handle, index int) bool {
	if index == 0 {
		return false
	}
	link, err := h.LinkByIndex(index)
	if err != nil {
		return !isGone(err)
	}
	return !isOurs(link) || isOwned(link.Attrs().Name)
}

func nameOf(h *netlink.Handle, index int) string {
	if link, err := h.LinkByIndex(index); err == nil {
		return link.Attrs().Name
	}
	return "a device that is gone"
}
