"""`python -m moex.run`: a worker. Its ranks begin here too; both end with whoever started them, from here on."""

from moex.distributed.parent import end_with_the_parent

end_with_the_parent()

if __name__ == "__main__":
    import gc
    import sys

    # As train.py does.
    gc.disable()
    from moex.run.worker import main

    gc.freeze()
    gc.enable()
    sys.exit(main())
