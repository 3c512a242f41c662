// Command mkguest builds a guest image: a kernel and an initramfs in one directory.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/hyper-runtime/hyper/guest"
)

func main() {
	var image guest.Image
	flag.StringVar(&image.Kernel, "kernel", "", "kernel `file`")
	flag.StringVar(&image.Modules, "modules", "", "module `directory` of the kernel; none if it has everything built in")
	flag.BoolVar(&image.Signed, "signed", false, "keep the modules' signatures, for a kernel that insists on them")
	flag.StringVar(&image.Agent, "agent", "", "static agent `file`, becomes /init")
	flag.StringVar(&image.Crun, "crun", "", "OCI runtime `file`, becomes /bin/crun")
	out := flag.String("out", "", "`directory` to write kernel and initrd to")
	flag.Parse()
	if image.Kernel == "" || image.Agent == "" || image.Crun == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := image.Build(*out); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		os.Exit(1)
	}
}
