from setuptools import setup

setup(
    packages=["robustmdiff"],
)
