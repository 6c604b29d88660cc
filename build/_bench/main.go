// Command bench measures programs and compares what it measured, for bench.sh.
//
//	bench run -case C -program P [-output DIR] COMMAND...   prints a sample
//	bench report CASES < SAMPLES                             prints tables of them
//
// It knows nothing of PostgreSQL. It is a tool of the script beside it and not a part of
// basin, therefore the underscore in the name of its folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("run or report?")
	}
	switch args[0] {
	case "run":
		return runCommand(ctx, args[1:])
	case "report":
		return runReport(args[1:])
	}
	return fmt.Errorf("%s: not known; run or report", args[0])
}
