"""Commands -> logs: a frozen plan is run, one supervised run after the other, and can be taken up again."""
